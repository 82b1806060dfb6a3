"""The way of a batch: order → gather → normalize → float32 → device → camera frames to floats."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import threading
import time
from collections.abc import Generator, Iterator, Sized
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from trainer.data.ahead import Ahead
from trainer.data.fetch import fetch_batch
from trainer.data.images import scale_images
from trainer.data.normalization import Normalizer
from trainer.data.order import GlobalBatchSampler
from trainer.data.packing import PackedBatch
from trainer.data.threads import lanes
from trainer.utils.tree import tree_map

Batch = dict[str, Any]

_BATCHES_AHEAD = 2
"""Batches that are ready beside the step without workers, and that are made at once where there are cores."""


class BatchLoader:
    """Yields the batches of an epoch, on the device.

    The order is that of `GlobalBatchSampler`; neither workers nor ranks change it. With workers, everything
    up to the copy to the device happens in them. Without, it happens in threads beside the step, if the
    dataset says by `concurrent_reads = True` that a sample depends on its index alone and several threads may
    read at once; other datasets are read between the steps, for what they draw from the global generators
    must not mix with what the step draws. Workers pay where samples are computed in Python: a batch of
    low-dimensional columns is gathered in less time than it takes to hand it over, and videos are decoded in
    as many threads as torch has.

    A dataset of camera frames that has a method `expect(samples, memory)` is told at the beginning of an
    epoch which samples it will be asked for, in that epoch and the next, and how many bytes it may take to
    keep frames for them. That changes no value.

    Camera frames travel as uint8, a quarter of the bytes, and become float32 in [0, 1] on the device; which
    features they are tell `images.is_image` and the dataset's `image_keys`.

    Args:
        dataset: a torch Dataset with a length. If its `__getitems__(indices)` returns a dict, that is the
            batch; otherwise samples are collated by torch's `default_collate` and must be dicts. A dataset
            that weighs its samples has `samples_per_epoch` and `epoch_order(seed, epoch)`, the indices of an
            epoch in their order.
        batch_size: samples per rank and part.
        rank: this rank.
        world_size: number of ranks.
        parts: batches of a rank that make one update together; they come one after the other.
        seed: seed of the order, and of the random generators in the workers.
        num_workers: worker processes; 0 gathers in this one, some batches ahead.
        pin_memory: pin host memory, so that copies to a GPU run beside the computation; None: on a GPU.
        persistent_workers: keep the workers from one epoch to the next.
        prefetch_factor: batches in flight per worker; torch's default if not given.
        normalizer: applied on the CPU, before the cast.
        device: where the batches go.
        frame_memory: bytes that the dataset may take for decoded frames; workers share them.

    Attributes:
        steps_per_epoch: updates in an epoch, the same on all ranks; each takes `parts` batches.
        parts: batches that make one update together.
        wait_seconds: time that the consumer has spent waiting for batches so far.

    Raises:
        ValueError: the dataset has fewer samples than one batch of all ranks.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        parts: int = 1,
        seed: int = 0,
        num_workers: int = 0,
        pin_memory: bool | None = None,
        persistent_workers: bool = False,
        prefetch_factor: int | None = None,
        normalizer: Normalizer | None = None,
        device: torch.device | str = "cpu",
        frame_memory: int = 0,
    ) -> None:
        own_length = getattr(dataset, "samples_per_epoch", None)
        self.sampler = GlobalBatchSampler(
            len(cast(Sized, dataset)) if own_length is None else own_length,
            batch_size,
            rank=rank,
            world_size=world_size,
            parts=parts,
            seed=seed,
            order=getattr(dataset, "epoch_order", None),
        )
        self.steps_per_epoch = self.sampler.steps_per_epoch
        self.parts = parts
        self.wait_seconds = 0.0
        self._device = torch.device(device)
        self._batches = _Batches(dataset, normalizer, self.sampler, frame_memory)
        # Pinned memory belongs to a GPU; without one the flag has nothing to do.
        self._pin_memory = pin_memory is not False and self._device.type == "cuda"
        self._image_keys = frozenset(getattr(dataset, "image_keys", ()))
        self._steps = _Steps(self.sampler)
        self._beside = bool(getattr(dataset, "concurrent_reads", False))
        self._worker_seeds = torch.Generator()
        self._workers: DataLoader[Any] | None = None
        if num_workers > 0:
            self._workers = DataLoader(
                self._batches,
                sampler=self._steps,
                batch_size=None,  # one item is a batch
                collate_fn=_packed,
                num_workers=num_workers,
                pin_memory=self._pin_memory,
                persistent_workers=persistent_workers,
                prefetch_factor=prefetch_factor,
                worker_init_fn=_seed_worker,
                generator=self._worker_seeds,
            )

    def sample(self, indices: np.ndarray) -> Batch:
        """Return chosen samples as one batch, prepared like those of an epoch."""
        return self._ready(self._batches.fetch(indices))

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, from step `start_step` on."""
        waiting_since = time.perf_counter()
        with contextlib.closing(self._host_batches(epoch, start_step)) as batches:
            for batch in batches:
                ready = self._ready(batch)
                self.wait_seconds += time.perf_counter() - waiting_since
                yield ready
                waiting_since = time.perf_counter()

    def _ready(self, batch: Batch | PackedBatch) -> Batch:
        return scale_images(self._to_device(batch), self._image_keys)

    def _host_batches(self, epoch: int, start_step: int) -> Generator[Batch | PackedBatch, None, None]:
        if self._workers is not None:
            self._steps.begin(epoch, start_step)
            words = np.random.SeedSequence([self.sampler.seed % 2**64, epoch, self.sampler.rank])
            self._worker_seeds.manual_seed(int(words.generate_state(1)[0]))
            yield from self._workers
            return
        calls = (functools.partial(self._made, item) for item in self._steps.items(epoch, start_step))
        if not self._beside:
            yield from (call() for call in calls)
            return
        # A batch of numbers is made faster than a second thread is woken.
        threads = min(_BATCHES_AHEAD, lanes()) if self._image_keys else 1
        with contextlib.closing(Ahead(calls, _BATCHES_AHEAD + threads, threads)) as ahead:
            yield from ahead

    def _made(self, item: _Item) -> Batch | PackedBatch:
        """Return a batch as far as it can be made beside the step."""
        batch = self._batches[item]
        # On a CPU that is all of it; elsewhere frames become floats on the device.
        return self._ready(batch) if self._device.type == "cpu" else self._for_the_way(batch)

    def _for_the_way(self, batch: Batch) -> Batch | PackedBatch:
        """Return a batch as it travels to the device."""
        if self._device.type == "cpu":
            return batch
        packed = PackedBatch(batch)
        return packed.pin_memory() if self._pin_memory else packed

    def _to_device(self, batch: Batch | PackedBatch) -> Batch:
        if isinstance(batch, dict):
            batch = self._for_the_way(batch)
        if isinstance(batch, dict):
            return batch
        unpacked = batch.unpack(self._device)
        if self._device.type == "cpu":
            return unpacked
        # Tensors nested in a dataset's own containers are not in the block.
        return tree_map(lambda value: _moved(value, self._device), unpacked, is_leaf=_is_texts)


class _Item(NamedTuple):
    """What a batch is made from: the epoch, the step at which it was begun, and this rank's samples."""

    epoch: int
    start_step: int
    indices: np.ndarray


class _Batches(Dataset[Batch]):
    """A dataset whose items are batches, ready but for the device."""

    def __init__(
        self, dataset: Dataset[Any], normalizer: Normalizer | None, sampler: GlobalBatchSampler, memory: int
    ) -> None:
        self._dataset = dataset
        self._normalizer = normalizer
        self._sampler = sampler
        self._memory = memory
        self._expects = memory > 0 and hasattr(dataset, "expect") and bool(getattr(dataset, "image_keys", ()))
        self._begun: tuple[int, int] | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def __getitem__(self, item: _Item) -> Batch:
        if self._expects:
            with self._lock:
                self._expect(item.epoch, item.start_step)
        return self.fetch(item.indices)

    def fetch(self, indices: np.ndarray) -> Batch:
        batch = fetch_batch(self._dataset, indices)
        if self._normalizer is not None:
            batch = self._normalizer.normalize(batch)
        return tree_map(_to_float32, batch, is_leaf=_is_texts)

    def _expect(self, epoch: int, start_step: int) -> None:
        """Tell the dataset, once an epoch, what this process will ask it for."""
        if self._begun == (epoch, start_step):
            return
        self._begun = (epoch, start_step)
        worker = get_worker_info()
        # Batches go to the workers in turn, each epoch from the first on.
        first, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        batches = (self._sampler.batches(epoch, start_step), self._sampler.batches(epoch + 1))
        samples = np.concatenate([own[first::workers].reshape(-1) for own in batches])
        cast(Any, self._dataset).expect(samples, self._memory // workers)


class _Steps:
    """The order in which batches are made; as the worker loader's sampler, of the epoch that was begun."""

    def __init__(self, sampler: GlobalBatchSampler) -> None:
        self._sampler = sampler
        self._epoch = 0
        self._start_step = 0

    def begin(self, epoch: int, start_step: int) -> None:
        self._epoch, self._start_step = epoch, start_step

    def __iter__(self) -> Iterator[_Item]:
        return self.items(self._epoch, self._start_step)

    def items(self, epoch: int, start_step: int) -> Iterator[_Item]:
        for indices in self._sampler.batches(epoch, start_step):
            yield _Item(epoch, start_step, indices)

    def __len__(self) -> int:
        return (self._sampler.steps_per_epoch - self._start_step) * self._sampler.parts


def _to_float32(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.float()
    return value


def _is_texts(value: Any) -> bool:
    """Tell a list of texts, which need not be walked one by one."""
    return isinstance(value, list) and len(value) > 0 and isinstance(value[0], str)


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value


def _packed(batch: Any) -> PackedBatch:
    return PackedBatch(batch)


def _seed_worker(worker: int) -> None:
    """Seed python and numpy as torch seeded this worker, whose number is in that seed already.

    A signal to stop reaches a whole process group, from the keyboard as from torchrun, while the step that is
    to be finished still needs batches. So the worker leaves that group; it goes when its parent does.
    """
    os.setpgid(0, 0)
    random.seed(torch.initial_seed())
    np.random.seed(torch.initial_seed() % 2**32)
