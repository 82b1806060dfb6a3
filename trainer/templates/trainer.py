"""What a trainer plugin provides."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Trainer(Protocol):
    """Turns one batch into one update.

    The constructor takes `models, optimizers, loss, device` and `train.trainer.params`, as far as its
    signature names them, and leaves `models` and `optimizers` as attributes for the checkpoints.
    """

    def train_step(self, data: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Train on one batch.

        Args:
            data: the batch, normalized, float32, on the device.
            **kwargs: `epoch`, `total_epochs`, `iterations`, `stats`, as far as the signature accepts them.

        Returns:
            Losses and metrics to log: numbers or scalar tensors.
        """
        ...
