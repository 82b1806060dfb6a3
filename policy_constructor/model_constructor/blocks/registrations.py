"""The names under which the model language knows the blocks of the experiments."""

from __future__ import annotations

from torch import nn

from model_constructor.blocks.state import FlowVelocityMLP, PlanarKeypoints
from model_constructor.registry.registry import Registry

STATE_BLOCKS: dict[str, type[nn.Module]] = {
    "planar_keypoints": PlanarKeypoints,
    "flow_velocity_mlp": FlowVelocityMLP,
}


def _register(registry: Registry, blocks: dict[str, type[nn.Module]], tag: str) -> None:
    for name, block in blocks.items():
        doc = (block.__doc__ or "").partition("\n\n")[0]
        registry.register_module(name, block, signature_policy="strict", tags=("blocks", tag), doc=doc)


def register_state_blocks(registry: Registry) -> None:
    """Register the blocks of policies that see numbers instead of images."""
    _register(registry, STATE_BLOCKS, "state")
