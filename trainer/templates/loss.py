"""What a loss plugin provides."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import nn


@runtime_checkable
class LossFactory(Protocol):
    """Builds a loss; the constructor takes `train.loss.params`."""

    def build(self) -> nn.Module:
        """Return the loss module."""
        ...
