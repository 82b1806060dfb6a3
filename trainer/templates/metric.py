"""What a metric plugin provides."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from trainer.templates.context import Context
from trainer.templates.policy import Policy


@runtime_checkable
class Metric(Protocol):
    """Measures a policy on episodes that it was not trained on.

    The constructor takes the `params` of its entry under `train.metrics`.
    """

    def measure(self, policy: Policy, batch: dict[str, Tensor], context: Context) -> Tensor:
        """Return a number per sample, `(B,)`; NaN where there is none, which leaves the sample out.

        Args:
            policy: with the weights that would be deployed, in eval mode.
            batch: normalized, on the device.
            context: draws the same numbers each time the same samples are measured.
        """
        ...
