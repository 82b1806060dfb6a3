"""What can be measured on the validation episodes beside the policy's own losses."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from trainer.registry import METRIC_REGISTRY
from trainer.templates import Context, Policy


@METRIC_REGISTRY.register("action_error")
class ActionError:
    """How far the predicted action chunk is from the demonstrated one, in normalized units.

    The mean over the steps within the episode and over the dimensions of the action.

    Args:
        norm: `l1`, the absolute error, or `mse`, its square.
        steps: how many of the chunk's steps count, from the first; all by default.

    Raises:
        ValueError: `steps` is below 1.
    """

    def __init__(self, norm: Literal["l1", "mse"] = "l1", steps: int | None = None) -> None:
        if steps is not None and steps < 1:
            raise ValueError(f"steps is {steps}, but at least 1 is needed")
        self.norm = norm
        self.steps = steps

    def measure(self, policy: Policy, batch: dict[str, Tensor], context: Context) -> Tensor:
        """Return the error of each sample, `(B,)`."""
        wanted = batch["action"]
        nowhere = torch.zeros(wanted.shape[:2], dtype=torch.bool, device=wanted.device)
        error = policy.predict_action(batch, context).float() - wanted
        error = (error.abs() if self.norm == "l1" else error.square()).mean(-1)[:, : self.steps]
        counted = (~batch.get("action_is_pad", nowhere))[:, : self.steps]
        return (error * counted).sum(1) / counted.sum(1)
