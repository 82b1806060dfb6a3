"""What a trainer plugin provides."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Trainer(Protocol):
    """Turns one batch into one update.

    The constructor takes `models, optimizers, loss, device` and `train.trainer.params`, as far as its
    signature names them. A trainer may also ask for `update` (a `trainer.engine.update.Update`), which clips,
    averages and accumulates as the `train` section says, and, if its class names a `policy_class`, for the
    `policy`.
    """

    def train_step(self, data: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Train on one batch.

        Args:
            data: the batch, normalized, float32, on the device.
            **kwargs: `epoch`, `total_epochs`, `iterations`, `stats`, `context` (a `Context`), as far as the
                signature accepts them.

        Returns:
            Losses and metrics to log: numbers or tensors of one element, which are averaged over
            micro-batches and ranks, or `Reduced` where they are added up, or the largest or last one counts.
        """
        ...
