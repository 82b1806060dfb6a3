"""Where batches come from: the protocol that the loop draws from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from trainer.data.batch_path import BatchPath

Batch = dict[str, Any]


class Batches(ABC):
    """A source of training batches.

    What it yields is ready for a step: normalized, float32, on the device, camera frames as floats in
    [0, 1]; a `BatchPath` makes it so. `BatchLoader` is the source of demonstrations; another one may wrap it,
    as `examples/extensions/second_source.py` does.

    Every rank has its own. All ranks have equal `steps_per_epoch` and `micro_batches`, and of a micro-batch
    all have the same number of samples.

    Attributes:
        steps_per_epoch: updates in an epoch; None for a run without epochs, which ends by `train.max_steps`.
        micro_batches: batches of a rank that make one update together; they come one after the other.
        samples_per_update: samples that one update learns from, over all ranks and micro-batches.
        wait_seconds: time that the consumer has spent waiting for batches so far.
    """

    steps_per_epoch: int | None
    micro_batches: int
    samples_per_update: int
    wait_seconds: float = 0.0

    @abstractmethod
    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, `micro_batches` for each of its steps, from `start_step` on.

        Args:
            epoch: number of the epoch; 0 without epochs, where the batches never end.
            start_step: the step of the epoch with which to begin, as after an interruption.
        """

    @abstractmethod
    def example(self, samples: int) -> Batch:
        """Return a ready batch of so many samples, always the same; nothing of the run changes by it.

        The first forward pass, before training, is made on it.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: nothing where batches follow from epoch and step alone."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned, before the next call of `epoch`.

        Raises:
            ValueError: it is the state of another kind of source.
        """
        if state:
            raise ValueError(
                f"the checkpoint holds {', '.join(state)} of another source of batches than "
                f"{type(self).__name__}; go on with the one that the run began with"
            )


BatchesFactory = Callable[[Batches, BatchPath, Any], Batches]
"""Makes the source of a run from its demonstrations, the path of a raw batch, and the runtime (rank, world
size, device) of this process."""
