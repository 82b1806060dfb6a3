"""Random changes of training batches, on the device, a whole batch at a time."""

from __future__ import annotations

from trainer.data.augmentation.augmentation import Augmentation

__all__ = ["Augmentation"]
