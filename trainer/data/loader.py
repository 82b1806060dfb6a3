"""The way of a batch: order → gather → normalize → float32 → device → camera frames to floats."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import time
from collections.abc import Generator, Iterator, Sequence, Sized
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from trainer.data.ahead import Ahead
from trainer.data.fetch import fetch_batch
from trainer.data.images import scale_images
from trainer.data.normalization import Normalizer
from trainer.data.order import GlobalBatchSampler
from trainer.data.packing import PackedBatch
from trainer.utils.tree import tree_map

Batch = dict[str, Any]

_BATCHES_AHEAD = 2
"""Batches that are made beside the step without workers; where several are read at once, so many of those."""


class BatchLoader:
    """Yields the batches of an epoch, on the device.

    The order is that of `GlobalBatchSampler`; neither workers nor ranks change it. With workers, everything
    up to the copy to the device happens in them. Without, it happens in a thread beside the step, if the
    dataset says by `concurrent_reads = True` that a sample depends on its index alone and may be read in any
    thread; other datasets are read between the steps, for what they draw from the global generators must not
    mix with what the step draws. Workers pay where samples are computed in Python: a batch of
    low-dimensional columns is gathered in less time than it takes to hand it over, and videos are decoded in
    as many threads as torch has.

    Camera frames travel as uint8, a quarter of the bytes, and become float32 in [0, 1] on the device; which
    features they are tell `images.is_image` and the dataset's `image_keys`. A dataset with a method
    `lookahead(batch_size)` is asked for so many batches at once; that changes no value.

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
        num_workers: worker processes; 0 gathers in this one, up to two batches (or groups of them) ahead.
        pin_memory: pin host memory, so that copies to a GPU run beside the computation; None: on a GPU.
        persistent_workers: keep the workers from one epoch to the next.
        prefetch_factor: batches in flight per worker; torch's default if not given.
        normalizer: applied on the CPU, before the cast.
        device: where the batches go.

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
        self._batches = _Batches(dataset, normalizer)
        # Pinned memory belongs to a GPU; without one the flag has nothing to do.
        self._pin_memory = pin_memory is not False and self._device.type == "cuda"
        self._image_keys = frozenset(getattr(dataset, "image_keys", ()))
        lookahead = getattr(dataset, "lookahead", None)
        together = 1 if lookahead is None else int(lookahead(batch_size))
        self._steps = _Steps(self.sampler, together)
        self._ahead = max(_BATCHES_AHEAD, together) if getattr(dataset, "concurrent_reads", False) else 0
        # Floats take four times the memory of uint8, too much for a group of batches.
        self._finish_ahead = self._ahead > 0 and together == 1 and self._device.type == "cpu"
        self._worker_seeds = torch.Generator()
        self._workers: DataLoader[Any] | None = None
        if num_workers > 0:
            self._workers = DataLoader(
                self._batches,
                sampler=self._steps,
                batch_size=None,  # one item is the batches of one group of steps
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
        return self._ready(self._batches[[indices]][0])

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
        if self._workers is None:
            if not self._ahead:
                yield from self._made_here(epoch, start_step)
                return
            with contextlib.closing(Ahead(self._made_here(epoch, start_step), self._ahead)) as ahead:
                yield from ahead
            return
        self._steps.begin(epoch, start_step)
        words = np.random.SeedSequence([self.sampler.seed % 2**64, epoch, self.sampler.rank])
        self._worker_seeds.manual_seed(int(words.generate_state(1)[0]))
        for batches in self._workers:
            yield from batches

    def _made_here(self, epoch: int, start_step: int) -> Iterator[Batch | PackedBatch]:
        for group in self._steps.groups(epoch, start_step):
            for batch in self._batches[group]:
                yield self._ready(batch) if self._finish_ahead else self._for_the_way(batch)

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


class _Batches(Dataset[list[Batch]]):
    """A dataset whose items are the batches of a group, ready but for the device."""

    def __init__(self, dataset: Dataset[Any], normalizer: Normalizer | None) -> None:
        self._dataset = dataset
        self._normalizer = normalizer

    def __getitem__(self, group: Sequence[np.ndarray]) -> list[Batch]:
        fetched = fetch_batch(self._dataset, group[0] if len(group) == 1 else np.concatenate(group))
        sizes = [len(indices) for indices in group]
        return [self._prepared(batch) for batch in ([fetched] if len(group) == 1 else _split(fetched, sizes))]

    def _prepared(self, batch: Batch) -> Batch:
        if self._normalizer is not None:
            batch = self._normalizer.normalize(batch)
        return tree_map(_to_float32, batch, is_leaf=_is_texts)


class _Steps:
    """The sampler of the worker loader: this rank's indices of each batch of the epoch that was begun.

    Args:
        sampler: the order.
        together: batches in a group.
    """

    def __init__(self, sampler: GlobalBatchSampler, together: int) -> None:
        self._sampler = sampler
        self._together = together
        self._epoch = 0
        self._start_step = 0

    def begin(self, epoch: int, start_step: int) -> None:
        self._epoch, self._start_step = epoch, start_step

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        return self.groups(self._epoch, self._start_step)

    def groups(self, epoch: int, start_step: int) -> Iterator[list[np.ndarray]]:
        steps = self._sampler.iterate(epoch, start_step)
        while group := list(itertools.islice(steps, self._together)):
            yield group

    def __len__(self) -> int:
        batches = (self._sampler.steps_per_epoch - self._start_step) * self._sampler.parts
        return -(-batches // self._together)


def _split(batch: Batch, sizes: Sequence[int]) -> list[Batch]:
    """Return the batches that were fetched as one; tensors and lists have an entry per sample."""
    ends = list(itertools.accumulate(sizes))
    return [
        {key: value[end - size : end] for key, value in batch.items()}
        for size, end in zip(sizes, ends, strict=True)
    ]


def _to_float32(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.float()
    return value


def _is_texts(value: Any) -> bool:
    """Tell a list of texts, which need not be walked one by one."""
    return isinstance(value, list) and len(value) > 0 and isinstance(value[0], str)


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value


def _packed(batches: Any) -> list[PackedBatch]:
    return [PackedBatch(batch) for batch in batches]


def _seed_worker(worker: int) -> None:
    """Seed python and numpy as torch seeded this worker, whose number is in that seed already.

    A signal to stop reaches a whole process group, from the keyboard as from torchrun, while the step that is
    to be finished still needs batches. So the worker leaves that group; it goes when its parent does.
    """
    os.setpgid(0, 0)
    random.seed(torch.initial_seed())
    np.random.seed(torch.initial_seed() % 2**32)
