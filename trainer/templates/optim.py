"""What an optimizer plugin provides."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn


@runtime_checkable
class OptimizerFactory(Protocol):
    """Builds the optimizer of one component; the constructor takes `component_optims.<name>.params`."""

    def build(self, params: Iterable[nn.Parameter] | Iterable[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return an optimizer over `params`; a schedule lives inside it and advances with `step()`."""
        ...
