"""Batches of a dataset in a fixed order, made beside the step: in worker processes or in threads."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from trainer.data.adapted import as_training_dataset
from trainer.data.batch_path import BatchPath
from trainer.data.batches import Batch, Batches
from trainer.data.columns import pictures_of
from trainer.data.normalization import Normalizer
from trainer.data.order import GlobalBatchSampler
from trainer.data.packing import PackedBatch
from trainer.data.prefetcher import Prefetcher
from trainer.data.threads import number_of_threads
from trainer.templates import TrainingDataset
from trainer.utils.seed import seed_worker

_PREFETCHED = 2
"""Batches that are ready beside the step without workers, and that are made at once where there are cores."""


class BatchLoader(Batches):
    """Yields the batches of an epoch, on the device: order → gather → `BatchPath`.

    The order is that of `GlobalBatchSampler`; neither workers nor ranks change it. With workers, everything
    up to the copy to the device happens in them. Without, it happens in threads beside the step, if the
    dataset says by `concurrent_reads` that a sample depends on its index alone and several threads may read
    at once; other datasets are read between the steps, for what they draw from the global generators
    must not mix with what the step draws. Workers pay where samples are computed in Python: a batch of
    low-dimensional columns is gathered in less time than it takes to hand it over, and videos are decoded in
    as many threads as torch has.

    A dataset that keeps decoded frames is told at the beginning of an epoch which samples it will be asked
    for, in that epoch and the next, and how many bytes it may take. That changes no value.

    Args:
        dataset: a `TrainingDataset`, or a torch Dataset with a length, which is adapted to one.
        batch_size: samples per rank and micro-batch.
        path: what makes a raw batch ready; by default floats become float32 and frames floats, on the CPU.
        normalizer: in place of a path, that of the default one.
        rank: this rank.
        world_size: number of ranks.
        micro_batches: batches of a rank that make one update together; they come one after the other.
        seed: seed of the order, and of the random generators in the workers.
        num_workers: worker processes; 0 gathers in this one, some batches ahead.
        persistent_workers: keep the workers from one epoch to the next.
        prefetch_factor: batches in flight per worker; torch's default if not given.
        frame_memory: bytes that the dataset may take for decoded frames; workers share them.

    Attributes:
        sampler: which samples each batch holds.
        path: what makes a raw batch ready.

    Raises:
        ValueError: the dataset has fewer samples than one batch of all ranks, or there is a path beside a
            normalizer.
    """

    steps_per_epoch: int

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        batch_size: int,
        path: BatchPath | None = None,
        normalizer: Normalizer | None = None,
        rank: int = 0,
        world_size: int = 1,
        micro_batches: int = 1,
        seed: int = 0,
        num_workers: int = 0,
        persistent_workers: bool = False,
        prefetch_factor: int | None = None,
        frame_memory: int = 0,
    ) -> None:
        dataset = as_training_dataset(dataset)
        self.sampler = GlobalBatchSampler(
            dataset.samples_per_epoch,
            batch_size,
            rank=rank,
            world_size=world_size,
            micro_batches=micro_batches,
            seed=seed,
            order=dataset.epoch_order,
        )
        self.steps_per_epoch = self.sampler.steps_per_epoch
        self.micro_batches = micro_batches
        self.samples_per_update = batch_size * micro_batches * world_size
        self._dataset = dataset
        if path is not None and normalizer is not None:
            raise ValueError("a BatchLoader takes a path or a normalizer; give the normalizer to the path")
        self.path = path or BatchPath(normalizer, cameras=pictures_of(dataset))
        self._host_batches = _HostBatches(dataset, self.path, self.sampler, frame_memory)
        self._steps = _Steps(self.sampler)
        self._worker_seeds = torch.Generator()
        self._workers: DataLoader[Any] | None = None
        if num_workers > 0:
            self._workers = DataLoader(
                self._host_batches,
                sampler=self._steps,
                batch_size=None,  # one item is a batch
                collate_fn=_packed,
                num_workers=num_workers,
                pin_memory=self.path.pins_memory,
                persistent_workers=persistent_workers,
                prefetch_factor=prefetch_factor,
                worker_init_fn=functools.partial(_begin_worker, os.getpid()),
                generator=self._worker_seeds,
            )

    def leave_out(self, rows: np.ndarray) -> None:
        """Leave some rows of every global batch to another source, from the next epoch on.

        Batches then hold what remains of them, and may be empty dicts.

        Args:
            rows: bool `(samples_per_update,)`, True where the row is given by somebody else.
        """
        self.sampler.leave_out(rows)

    def sample(self, indices: np.ndarray) -> Batch:
        """Return chosen samples as one batch, ready like those of an epoch."""
        return self.path(self._dataset.__getitems__(indices))

    def example(self, samples: int) -> Batch:
        """Return the first samples of the dataset as one ready batch."""
        return self.sample(np.arange(samples))

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, from step `start_step` on."""
        waiting_since = time.perf_counter()
        with contextlib.closing(self._made(epoch, start_step)) as batches:
            for batch in batches:
                ready = self.path.on_device(batch)
                self.wait_seconds += time.perf_counter() - waiting_since
                yield ready
                waiting_since = time.perf_counter()

    def _made(self, epoch: int, start_step: int) -> Generator[Batch | PackedBatch, None, None]:
        """Yield the batches as far as they are made in workers, in threads, or here."""
        if self._workers is not None:
            self._steps.begin(epoch, start_step)
            words = np.random.SeedSequence([self.sampler.seed % 2**64, epoch, self.sampler.rank])
            self._worker_seeds.manual_seed(int(words.generate_state(1)[0]))
            yield from self._workers
            return
        calls = (
            functools.partial(self._without_worker, item) for item in self._steps.items(epoch, start_step)
        )
        if not self._dataset.concurrent_reads:
            yield from (call() for call in calls)
            return
        # A batch of numbers is made faster than a second thread is woken.
        threads = min(_PREFETCHED, number_of_threads()) if self._dataset.image_keys else 1
        with contextlib.closing(Prefetcher(calls, _PREFETCHED + threads, threads)) as prefetcher:
            yield from prefetcher

    def _without_worker(self, item: _Item) -> Batch | PackedBatch:
        """Return a batch as far as it can be made beside the step."""
        return self.path.beside_step(self._host_batches[item])


class _Item(NamedTuple):
    """What a batch is made from: the epoch, the step at which it was begun, and this rank's samples."""

    epoch: int
    start_step: int
    indices: np.ndarray


class _HostBatches(Dataset[Batch]):
    """A dataset whose items are batches, ready but for the device."""

    def __init__(
        self, dataset: TrainingDataset, path: BatchPath, sampler: GlobalBatchSampler, memory: int
    ) -> None:
        self._dataset = dataset
        self._path = path
        self._sampler = sampler
        self._memory = memory
        self._expects = memory > 0 and dataset.keeps_frames
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
        if not len(item.indices):  # another source gives the whole batch
            return {}
        return self._path.on_host(self._dataset.__getitems__(item.indices))

    def _expect(self, epoch: int, start_step: int) -> None:
        """Tell the dataset, once an epoch, what this process will ask it for."""
        if self._begun == (epoch, start_step):
            return
        self._begun = (epoch, start_step)
        worker = get_worker_info()
        # Batches go to the workers in turn, each epoch from the first on.
        first, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        batches = (self._sampler.batches(epoch, start_step), self._sampler.batches(epoch + 1))
        none = np.empty(0, np.int64)  # of a worker that has no batch
        samples = np.concatenate([none, *(one for own in batches for one in own[first::workers])])
        self._dataset.expect(samples, self._memory // workers)


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
        return (self._sampler.steps_per_epoch - self._start_step) * self._sampler.micro_batches


def _packed(batch: Any) -> PackedBatch:
    return PackedBatch(batch)


def _begin_worker(trainer: int, worker: int) -> None:
    """Seed a worker, let it outlast a signal to stop, and let it end when its trainer does.

    Such a signal reaches a whole process group, from the keyboard as from torchrun, while the step that is
    to be finished still needs batches. So the worker leaves that group.

    Args:
        trainer: the process that started it.
        worker: its number.
    """
    os.setpgid(0, 0)
    _end_with(trainer)
    seed_worker(worker)


_PR_SET_PDEATHSIG = 1


def _end_with(parent: int) -> None:
    """Have this process killed when its parent ends, however that happens and whatever it does then.

    Linux does so, also where Python waits in the code of a library: when the thread that started this process
    ends. Elsewhere torch looks after its workers between two samples.
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before
        os._exit(1)
