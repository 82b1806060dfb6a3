"""Puts every block into a registry."""

from __future__ import annotations

from model_constructor.blocks.basic import MLP, ConvBNAct, ResidualBlock
from model_constructor.blocks.registrations import (
    register_experiment_blocks,
    register_state_blocks,
    register_vision_blocks,
)
from model_constructor.registry.registry import Registry


def register_blocks(registry: Registry) -> None:
    """Register the basic blocks and those of the experiments."""
    registry.register_module("mlp", MLP, signature_policy="strict", tags=("blocks", "mlp"))
    registry.register_module("conv_bn_act", ConvBNAct, signature_policy="strict", tags=("blocks", "conv"))
    registry.register_module(
        "residual_block", ResidualBlock, signature_policy="strict", tags=("blocks", "residual")
    )
    register_state_blocks(registry)
    register_experiment_blocks(registry)
    register_vision_blocks(registry)
