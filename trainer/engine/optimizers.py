"""Building the optimizer of a component."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainer.config.component import ComponentSpec
from trainer.engine.update import switch_optimizer
from trainer.registry import OPTIMIZER_BUILDER_REGISTRY


def build_optimizer(spec: ComponentSpec, parameters: Sequence[nn.Parameter], total_steps: int) -> Any:
    """Return what the factory of an optimizer builds, which is told the length of the run if it asks.

    Raises:
        ValueError: a parameter of the factory cannot be used.
    """
    builder: Any = OPTIMIZER_BUILDER_REGISTRY.get(spec.type)
    factory = builder(**spec.params)
    takes_steps = "total_steps" in inspect.signature(factory.build).parameters
    return factory.build(list(parameters), **({"total_steps": total_steps} if takes_steps else {}))


def numbers_per_parameter(spec: ComponentSpec) -> float:
    """Return how many numbers an optimizer keeps for each parameter, found by one step on a small one."""
    parameter = nn.Parameter(torch.zeros(1024))
    optimizer = build_optimizer(spec, [parameter], 10**9)
    switch_optimizer(optimizer, "train")
    parameter.grad = torch.zeros(1024)
    optimizer.step()
    tensors = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
    return sum(t.numel() for t in tensors if t.numel() == parameter.numel()) / parameter.numel()
