"""A second source of batches: every batch of demonstrations is joined by samples from elsewhere.

What else is drawn from may grow while training goes on, such as what robots have just recorded. A program
says so where it trains; nothing of it stands in the experiment::

    buffer = SampleBuffer(capacity=100_000)
    train("experiment.yaml", batches=mixed_with(buffer.sample, count=16))
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.data.batch_path import BatchPath
from trainer.data.batches import Batch, Batches, BatchesFactory

Draw = Callable[[int, np.random.Generator], Batch]
"""Returns so many raw samples as one batch, chosen by the generator."""


class MixedBatches(Batches):
    """Batches of demonstrations, each with `count` further samples at its end.

    A batch has the features that both sources have.

    Args:
        demonstrations: the first source; it gives the steps of an epoch.
        path: what makes the raw samples of the second one ready.
        draw: the second source.
        count: its samples in a batch of a rank.
        rank: this rank; each draws samples of its own.
        world_size: number of ranks.
        seed: seed of what is drawn.
    """

    def __init__(
        self,
        demonstrations: Batches,
        path: BatchPath,
        draw: Draw,
        count: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
    ) -> None:
        self.steps_per_epoch = demonstrations.steps_per_epoch
        self.micro_batches = demonstrations.micro_batches
        more = count * self.micro_batches * world_size
        self.samples_per_update = demonstrations.samples_per_update + more
        self.demonstrations, self.path, self.draw, self.count = demonstrations, path, draw, count
        self._seed = (seed, rank)
        self._drawn = 0
        self._drawing_seconds = 0.0

    @property
    def wait_seconds(self) -> float:  # type: ignore[override]
        """Time that the consumer has waited for either source."""
        return self.demonstrations.wait_seconds + self._drawing_seconds

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch; what is drawn is what the second source has at that time."""
        for batch in self.demonstrations.epoch(epoch, start_step):
            began = time.perf_counter()
            chosen_by = np.random.default_rng([*self._seed, self._drawn])
            self._drawn += 1
            more = self.path(self.draw(self.count, chosen_by))
            joined = {key: _joined(value, more[key]) for key, value in batch.items() if key in more}
            self._drawing_seconds += time.perf_counter() - began
            yield joined

    def example(self, samples: int) -> Batch:
        """Return demonstrations, for the second source may be empty before training."""
        return self.demonstrations.example(samples)

    def state_dict(self) -> dict[str, Any]:
        """Return how many batches were drawn: the next ones are others."""
        return {"drawn": self._drawn, "demonstrations": self.demonstrations.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the draws after those."""
        self._drawn = state["drawn"]
        self.demonstrations.load_state_dict(state["demonstrations"])


def mixed_with(draw: Draw, count: int, seed: int = 0) -> BatchesFactory:
    """Return what `train(…, batches=…)` takes: it makes the source of each rank."""

    def make(demonstrations: Batches, path: BatchPath, runtime: Any) -> Batches:
        place = {"rank": runtime.rank, "world_size": runtime.world_size}
        return MixedBatches(demonstrations, path, draw, count, seed=seed, **place)

    return make


class SampleBuffer:
    """The newest raw samples, in memory; other threads may add some while training draws.

    Args:
        capacity: samples that are kept; the oldest make way.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._samples: Batch = {}
        self._lock = threading.Lock()

    def add(self, samples: Batch) -> None:
        """Append samples: feature → tensor `(n, …)`, raw as a dataset has them, always the same features."""
        with self._lock:
            kept = {key: _joined(self._samples.get(key, value[:0]), value) for key, value in samples.items()}
            self._samples = {key: value[-self.capacity :] for key, value in kept.items()}

    def sample(self, count: int, generator: np.random.Generator) -> Batch:
        """Return `count` samples, any of which may come again.

        Raises:
            ValueError: there are none yet.
        """
        with self._lock:
            samples = self._samples
        if not samples:
            raise ValueError("the buffer is empty: add samples before training draws from it")
        chosen = torch.from_numpy(generator.integers(len(next(iter(samples.values()))), size=count))
        return {key: value[chosen] for key, value in samples.items()}


def _joined(first: Any, second: Any) -> Any:
    return torch.cat([first, second]) if isinstance(first, Tensor) else [*first, *second]
