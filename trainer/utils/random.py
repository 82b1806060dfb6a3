"""Random numbers that belong to samples, so that neither ranks nor restarts change them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

POLICY, AUGMENTATION = 0, 1


class Random(Protocol):
    """Random numbers whose first dimension is the batch."""

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Return standard normal numbers of shape `(B, …)`."""
        ...

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        """Return numbers uniform in [0, 1) of shape `(B, …)`."""
        ...


class SampleRandom:
    """Draws for one global batch, of which a rank takes its rows.

    The numbers are a pure function of `(seed, step, stream)` and of the row in the global batch: one rank
    with a batch of 2B and two ranks with B see the same noise for the same sample, and a resumed run sees
    what the uninterrupted one would have seen. Every rank must make the same calls in the same order.

    Args:
        seed: the seed of the run.
        step: the iteration, counted over the whole run.
        rank: this rank's place in the global batch.
        world_size: number of ranks, all with equal batches.
        device: where the numbers are needed; they are drawn on the CPU, so that every device sees the same.
        stream: numbers of different streams have nothing to do with each other, so that who draws more from
            one leaves the others as they are: `POLICY` or `AUGMENTATION`.
    """

    def __init__(
        self,
        seed: int,
        step: int = 0,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
        *,
        stream: int = POLICY,
    ) -> None:
        self.rank = rank
        self.world_size = world_size
        self.device = torch.device(device)
        entropy = np.random.SeedSequence([seed, step, stream]).generate_state(1, np.uint64)[0]
        self._generator = torch.Generator().manual_seed(int(entropy) & (2**63 - 1))

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Return standard normal numbers of shape `(B, …)` for this rank's B samples."""
        return self._rows(torch.randn(self._global(shape), generator=self._generator), shape[0])

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        """Return numbers uniform in [0, 1) of shape `(B, …)` for this rank's B samples."""
        return self._rows(torch.rand(self._global(shape), generator=self._generator), shape[0])

    def permutation(self, n: int) -> list[int]:
        """Return the numbers 0 … n − 1 in an order that the whole global batch shares; it is on the host."""
        order: list[int] = torch.randperm(n, generator=self._generator).tolist()
        return order

    def _global(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[0] * self.world_size, *shape[1:])

    def _rows(self, values: Tensor, rows: int) -> Tensor:
        mine = values[self.rank * rows : (self.rank + 1) * rows]
        if self.device.type == "cuda":
            mine = mine.pin_memory()  # a copy of pageable memory would wait for all that the GPU has to do
        return mine.to(self.device, non_blocking=True)


class RowRandom:
    """Draws in which every row has its own seed: a robot's numbers do not depend on who rolls out beside it.

    Args:
        seeds: one seed per row.
        device: where the numbers are needed.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._generators = [torch.Generator().manual_seed(int(s)) for s in seeds]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only."""
        self._generators = [self._generators[row] for row in rows]

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Return standard normal numbers of shape `(B, …)`, row b from generator b."""
        return self._stack(torch.randn, shape)

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        """Return numbers uniform in [0, 1) of shape `(B, …)`, row b from generator b."""
        return self._stack(torch.rand, shape)

    def _stack(self, draw: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
        assert shape[0] == len(self._generators), "one row per seed"
        return torch.stack([draw(shape[1:], generator=g) for g in self._generators]).to(self.device)
