"""Batches of demonstrations and of what was collected, in an exact share."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainer.data.batch_path import BatchPath
from trainer.data.batches import Batch, Batches
from trainer.data.loader import BatchLoader
from trainer.data.packing import PackedBatch
from trainer.data.prefetcher import Prefetcher
from trainer.utils.errors import UsageError

_AHEAD = 2
"""Draws that are ready or being made beside the step."""


class DrawKey(NamedTuple):
    """Which collected samples are drawn: a pure function of these gives the same ones to any number of ranks.

    Attributes:
        update: for which they are, counted over the whole run from 0.
        first: place of the first of them among all that are collected of that update's global batch.
    """

    update: int
    first: int


Draw = Callable[[int, DrawKey], Mapping[str, Any]]
"""Returns so many raw samples: feature → array or tensor `(n, …)`, or a list of n texts."""


def collected_rows(ratio: float, samples: int) -> np.ndarray:
    """Return which rows of a global batch are collected ones: bool `(samples,)`, evenly spread.

    Args:
        ratio: their share, rounded once to whole samples.
        samples: of a global batch.

    Raises:
        ValueError: the share is less than half a sample.
    """
    count = math.floor(ratio * samples + 0.5)
    if count == 0:
        raise ValueError(
            f"a share of {ratio:g} collected samples is none of a global batch of {samples}; raise "
            "online.ratio or the batch"
        )
    before = np.arange(samples + 1) * count // samples
    return before[1:] > before[:-1]


class MixedBatches(Batches):
    """Batches of demonstrations in which rows of each global batch are collected samples.

    Which rows is arithmetic: n of G, evenly spread, the same ones in every global batch, so that neither
    ranks nor micro-batches change what an update learns from. All other rows are those of the demonstrations'
    own batches; an epoch has as many updates as without collected samples. Collected samples are drawn some
    updates ahead, in a thread beside the step.

    Args:
        demonstrations: gives all other rows.
        path: what makes raw samples ready.
        draw: gives collected samples; it may wait until there are any.
        ratio: the share of collected samples.
        rank: this rank.
        world_size: number of ranks.
        cancel: called when batches are drawn no more in the middle of an epoch; whoever waits in `draw` then
            gives up, since nobody waits for him.

    Raises:
        ValueError: the share is less than half a sample of a global batch.
    """

    def __init__(
        self,
        demonstrations: BatchLoader,
        path: BatchPath,
        draw: Draw,
        ratio: float,
        *,
        rank: int = 0,
        world_size: int = 1,
        cancel: Callable[[], None] = lambda: None,
    ) -> None:
        self._cancel = cancel
        self.steps_per_epoch: int = demonstrations.steps_per_epoch
        self.micro_batches = demonstrations.micro_batches
        self.samples_per_update = demonstrations.samples_per_update
        self._demonstrations, self._path, self._draw = demonstrations, path, draw
        rows = collected_rows(ratio, self.samples_per_update)
        self.collected_per_update = int(rows.sum())
        demonstrations.leave_out(rows)
        slots = rows.reshape(self.micro_batches, world_size, -1)
        # Of all collected samples of an update, so many are in slots before this one.
        before = (np.cumsum(slots.sum(-1).reshape(-1)) - slots.sum(-1).reshape(-1)).reshape(slots.shape[:2])
        self._slots = [_Slot(int(before[j, rank]), slots[j, rank]) for j in range(self.micro_batches)]
        self._waited = 0.0

    @property
    def wait_seconds(self) -> float:  # type: ignore[override]
        """Time that the consumer has waited for either source."""
        return self._demonstrations.wait_seconds + self._waited

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, from step `start_step` on.

        Raises:
            UsageError: collected samples lack a feature of the demonstrations, or have it otherwise.
        """
        updates = range(epoch * self.steps_per_epoch + start_step, (epoch + 1) * self.steps_per_epoch)
        calls = (functools.partial(self._drawn, slot, update) for update in updates for slot in self._slots)
        demonstrations = self._demonstrations.epoch(epoch, start_step)
        with (
            contextlib.closing(Prefetcher(calls, _AHEAD)) as drawn,
            contextlib.closing(demonstrations),  # type: ignore[type-var]  # a generator
        ):
            slots = [slot for _ in updates for slot in self._slots]
            left = len(slots)
            try:
                for slot, others in zip(slots, demonstrations, strict=True):
                    began = time.perf_counter()
                    collected = self._path.on_device(next(drawn))
                    self._waited += time.perf_counter() - began
                    left -= 1
                    yield slot.joined(others, collected)
            finally:
                if left:
                    self._cancel()

    def example(self, samples: int) -> Batch:
        """Return demonstrations, for nothing may be collected before training."""
        return self._demonstrations.example(samples)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of collected samples in an update; all else follows from epoch and step."""
        return {"collected_per_update": self.collected_per_update}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on as before.

        Raises:
            ValueError: the run had another share of collected samples.
        """
        before = state.get("collected_per_update", 0)
        if before != self.collected_per_update:
            raise ValueError(
                f"the checkpoint is of a run with {before} collected samples in a batch of "
                f"{self.samples_per_update}, and this one has {self.collected_per_update}; go on with the "
                "online.ratio that it began with"
            )

    def _drawn(self, slot: _Slot, update: int) -> Batch | PackedBatch:
        if not slot.count:
            return {}
        raw = self._draw(slot.count, DrawKey(update, slot.first))
        return self._path.beside_step(self._path.on_host(as_tensors(raw)))


class _Slot:
    """The place of a batch of this rank in the global batch.

    Args:
        first: collected samples of the update before it.
        collected: bool `(B,)`, which of its rows are collected samples.
    """

    def __init__(self, first: int, collected: np.ndarray) -> None:
        self.first, self.count = first, int(collected.sum())
        self._is_own: list[bool] = collected.tolist()
        self._collected = torch.from_numpy(np.flatnonzero(collected))
        self._others = torch.from_numpy(np.flatnonzero(~collected))

    def _to(self, device: torch.device) -> None:
        """Move the row numbers once: a copy in every step would wait for all that the device has to do."""
        if self._others.device != device:
            self._others, self._collected = self._others.to(device), self._collected.to(device)

    def joined(self, others: Batch, collected: Batch) -> Batch:
        """Return the batch of which these are parts, on their device; it has what the demonstrations have."""
        if not others or not collected:
            return collected or others
        return {key: self._value(key, value, collected) for key, value in others.items()}

    def _value(self, key: str, other: Any, collected: Batch) -> Any:
        if key not in collected:
            raise UsageError(
                f"the demonstrations have '{key}', and what was collected has not; collect it too, or leave "
                "it out of the dataset (data.datamodule.params)"
            )
        own = collected[key]
        if not isinstance(other, Tensor):
            values = iter(other), iter(own)
            return [next(values[is_own]) for is_own in self._is_own]
        if own.shape[1:] != other.shape[1:] or own.dtype != other.dtype:
            raise UsageError(
                f"a sample of the demonstrations has '{key}' as {other.dtype} {list(other.shape[1:])}, and a "
                f"collected one as {own.dtype} {list(own.shape[1:])}"
            )
        whole = other.new_empty((len(self._is_own), *other.shape[1:]))
        self._to(other.device)
        return whole.index_copy_(0, self._others, other).index_copy_(0, self._collected, own)


def as_tensors(raw: Mapping[str, Any]) -> Batch:
    """Return a raw batch with tensors in place of arrays; what may only be read, as from Ray, is copied."""
    return {
        key: torch.from_numpy(value if value.flags.writeable else value.copy())
        if isinstance(value, np.ndarray)
        else value
        for key, value in raw.items()
    }
