"""Squared error."""

from __future__ import annotations

from typing import Literal

from torch import nn

from trainer.registry import LOSS_BUILDER_REGISTRY


@LOSS_BUILDER_REGISTRY.register("l2_loss")
class L2LossFactory:
    """Builds the squared error of a prediction.

    Args:
        reduction: `sum` over all values, or their `mean`.
    """

    def __init__(self, reduction: Literal["sum", "mean"] = "sum") -> None:
        self.reduction = reduction

    def build(self) -> nn.Module:
        """Return a module that takes prediction and target of one shape."""
        return nn.MSELoss(reduction=self.reduction)
