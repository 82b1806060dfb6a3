"""Building the optimizer of a component."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import nn

from trainer.config.component import ComponentSpec
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
