"""Batches as one block of memory: handed between processes, pinned and copied in one piece."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_ALIGNMENT = 64


@dataclass(frozen=True)
class _Place:
    start: int
    stop: int
    dtype: torch.dtype
    shape: torch.Size


class PackedBatch:
    """The tensors of a batch in one buffer, and whatever else it holds beside it.

    Handing a tensor from a worker to the training process costs a file descriptor and a round trip, far
    more than copying a small one; so does pinning each of a dozen. Packed, a batch pays once.

    Args:
        batch: what to pack; its tensors lie on the CPU. Values that are no tensors, nested ones too, go along
            as they are.
    """

    def __init__(self, batch: Mapping[str, Any]) -> None:
        self._keys = list(batch)
        self._others = {key: value for key, value in batch.items() if not isinstance(value, Tensor)}
        self._places: dict[str, _Place] = {}
        end = 0
        for key, value in batch.items():
            if isinstance(value, Tensor):
                start = -(-end // _ALIGNMENT) * _ALIGNMENT
                end = start + value.numel() * value.element_size()
                self._places[key] = _Place(start, end, value.dtype, value.shape)
        self.buffer = torch.empty(end, dtype=torch.uint8)
        for key in self._places:
            self._view(key).copy_(batch[key])

    def _view(self, key: str) -> Tensor:
        place = self._places[key]
        return self.buffer[place.start : place.stop].view(place.dtype).view(place.shape)

    def pin_memory(self) -> PackedBatch:
        """Pin the buffer; torch's loader calls this."""
        self.buffer = self.buffer.pin_memory()
        return self

    def unpack(self, device: torch.device) -> dict[str, Any]:
        """Return the batch, in its order, copied to `device` in one piece; its tensors share that block."""
        self.buffer = self.buffer.to(device, non_blocking=True)
        return {key: self._view(key) if key in self._places else self._others[key] for key in self._keys}
