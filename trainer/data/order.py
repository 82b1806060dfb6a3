"""Which samples a batch holds: arithmetic, the same for any number of ranks and workers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from trainer.data.errors import DatasetError
from trainer.utils.shuffle import epoch_order


class GlobalBatchSampler:
    """Cuts every epoch's order into global batches, and those into slices for ranks and micro-batches.

    Global batch `s` of an epoch is positions `[s·G, (s+1)·G)` of that epoch's order, with
    `G = batch_size · world_size · micro_batches`; it is what one update learns from. Of R ranks, rank r has
    in micro-batch j of the update the rows `[v·B, (v+1)·B)` with `v = j·R + r`: micro-batches are ranks in
    time. So one rank with a batch of 2B, one rank with two micro-batches of B and two ranks with B see the
    same global batches, and a resumed run jumps to its step. What does not fill a global batch at the end of
    the order is left out; the order differs each epoch, so these are other samples each time.

    Args:
        length: number of samples in an epoch.
        batch_size: samples per rank and micro-batch (B).
        rank: this rank.
        world_size: number of ranks (R).
        micro_batches: batches of a rank that make one update together.
        seed: seed of the order, the same on all ranks.
        order: `(seed, epoch)` → the samples of an epoch in their order, int64 `(length,)`, a pure function;
            each of the dataset's samples once (`epoch_order`) if not given.

    Raises:
        ValueError: the dataset is smaller than one global batch, or a number is out of range.
        DatasetError: later, when an epoch begins, an order has another length.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        micro_batches: int = 1,
        seed: int = 0,
        order: Callable[[int, int], np.ndarray] | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"the batch size must be at least 1, it is {batch_size}")
        if world_size < 1 or not 0 <= rank < world_size:
            raise ValueError(f"there is no rank {rank} among {world_size} ranks")
        if micro_batches < 1:
            raise ValueError(f"an update has at least 1 micro-batch, not {micro_batches}")
        global_batch = batch_size * world_size * micro_batches
        if length < global_batch:
            what = f"a batch of {batch_size}" + (f" on each of {world_size} ranks" if world_size > 1 else "")
            what = f"{micro_batches} times {what}" if micro_batches > 1 else what
            raise ValueError(f"the dataset has {length} samples, fewer than {what} needs ({global_batch})")
        self.length = length
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.micro_batches = micro_batches
        self.seed = seed
        self.steps_per_epoch = length // global_batch
        self._given: np.ndarray | None = None
        self._draw = order
        self._cached: dict[int, np.ndarray] = {}

    def indices(self, epoch: int, step: int, micro_batch: int = 0) -> np.ndarray:
        """Return this rank's samples, int64 `(B,)`, of a micro-batch of a step of an epoch, all from 0."""
        assert 0 <= step < self.steps_per_epoch, f"step {step} of {self.steps_per_epoch}"
        return self.batches(epoch, step)[micro_batch]

    def leave_out(self, rows: np.ndarray) -> None:
        """Leave some rows of every global batch to another source; all others hold what they held before.

        Args:
            rows: bool `(G,)`, True where the row is given by somebody else.
        """
        batches = rows.reshape(self.micro_batches, self.world_size, self.batch_size)
        self._given = batches[:, self.rank]

    def batches(self, epoch: int, start_step: int = 0) -> np.ndarray | list[np.ndarray]:
        """Return this rank's samples of all micro-batches from step `start_step` on.

        Returns:
            int64 `(n, B)`; where rows are left out, n arrays of those that remain of each.
        """
        used = self.steps_per_epoch * self.micro_batches * self.world_size
        places = self._order(epoch)[: used * self.batch_size].reshape(-1, self.world_size, self.batch_size)
        own = places[start_step * self.micro_batches :, self.rank]
        if self._given is None:
            return own
        remain = ~self._given
        return [one[remain[i % self.micro_batches]] for i, one in enumerate(own)]

    def _order(self, epoch: int) -> np.ndarray:
        found = self._cached.get(epoch)
        if found is None:
            draw = self._draw
            found = epoch_order(self.seed, epoch, self.length) if draw is None else draw(self.seed, epoch)
            if len(found) != self.length:
                raise DatasetError(
                    f"the dataset's epoch_order gives {len(found)} samples in epoch {epoch}, and its "
                    f"samples_per_epoch is {self.length}; they must be equal"
                )
            # One thread may begin an epoch while another still ends the one before.
            self._cached = {e: order for e, order in self._cached.items() if e == epoch - 1} | {epoch: found}
        return found
