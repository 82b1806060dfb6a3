"""The path of a batch: normalize → float32 → device → camera frames to floats. The one place for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch

from trainer.data.images import scale_images
from trainer.data.normalization import Normalizer
from trainer.data.packing import PackedBatch
from trainer.utils.device import cast_dtype, move_to_device

Batch = dict[str, Any]


class BatchPath:
    """Makes a raw batch, as a dataset gives it, ready for a policy.

    `path(batch)` is the whole of it. Its halves may lie apart: `on_host` needs neither the device nor this
    process, so a worker can do it; `on_device` does the rest where the step is. Training, validation, replay
    and a robot go the same way, so that a policy sees the same numbers everywhere.

    Camera frames travel as uint8, a quarter of the bytes, and become float32 in [0, 1] on the device.

    Args:
        normalizer: applied on the CPU, before the cast; None leaves the values as they are.
        device: where batches go.
        cameras: the features that hold frames; None if the dataset does not tell, and names decide.
        pin_memory: pin host memory, so that copies to a GPU run beside the computation; None: on a GPU.

    Attributes:
        device: where batches go.
        pins_memory: whether host memory is pinned; never without a GPU.
    """

    def __init__(
        self,
        normalizer: Normalizer | None = None,
        device: torch.device | str = "cpu",
        cameras: Collection[str] | None = None,
        pin_memory: bool | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.pins_memory = pin_memory is not False and self.device.type == "cuda"
        self._normalizer = normalizer
        self._cameras = None if cameras is None else frozenset(cameras)

    def __call__(self, batch: Mapping[str, Any]) -> Batch:
        """Return a raw batch ready: normalized, float32, on the device, frames as floats."""
        return self.on_device(self.on_host(batch))

    def on_host(self, batch: Mapping[str, Any]) -> Batch:
        """Return a raw batch normalized, its floats as float32; the given one stays as it is.

        Args:
            batch: feature → tensor `(B, …)` on the CPU; other values, nested ones too, pass through.

        Raises:
            ValueError: a mixture's batch does not tell which dataset each sample is from.
        """
        normalized = dict(batch) if self._normalizer is None else self._normalizer.normalize(batch)
        ready: Batch = cast_dtype(normalized, torch.float32)
        return ready

    def packed(self, batch: Batch) -> Batch | PackedBatch:
        """Return what `on_host` gave as it travels: in one (pinned) piece, or itself where it stays."""
        if self.device.type == "cpu":
            return batch
        packed = PackedBatch(batch)
        return packed.pin_memory() if self.pins_memory else packed

    def beside_step(self, batch: Batch) -> Batch | PackedBatch:
        """Return what `on_host` gave as far as it can be made beside the step; `on_device` does the rest.

        On a CPU that is all of it; elsewhere frames become floats on the device.
        """
        return self.on_device(batch) if self.device.type == "cpu" else self.packed(batch)

    def on_device(self, batch: Batch | PackedBatch) -> Batch:
        """Return what `on_host` gave, packed or not, on the device, its frames as floats.

        On a CPU a batch that is ready already comes back as it is.
        """
        travelling = self.packed(batch) if isinstance(batch, dict) else batch
        there = travelling.unpack(self.device) if isinstance(travelling, PackedBatch) else travelling
        if self.device.type != "cpu":
            # Tensors nested in a dataset's own containers are not in the block.
            there = move_to_device(there, self.device)
        return scale_images(there, self._cameras)
