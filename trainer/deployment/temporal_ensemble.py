"""Temporal ensembling: overlapping action chunks, averaged."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from trainer.utils.errors import UsageError


class TemporalEnsemble:
    """Averages what all chunks predicted so far say of the present action.

    Zhao et al. 2023, "Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware": a chunk is
    predicted at every step, and of the K predictions of the present action, number i from the oldest (i = 0)
    weighs exp(−m · i).

    Args:
        m: how little newer predictions weigh; 0 weighs all alike.

    Raises:
        UsageError: m is not finite.
    """

    def __init__(self, m: float = 0.01) -> None:
        if not math.isfinite(m):
            raise UsageError(f"m of temporal ensembling is {m}, but it must be a finite number")
        self.m = m
        self._chunks: list[np.ndarray] = []

    def reset(self) -> None:
        """Forget all chunks."""
        self._chunks = []

    def keep(self, rows: np.ndarray | Sequence[int]) -> None:
        """Go on with these rows of the batch only."""
        self._chunks = [chunk[rows] for chunk in self._chunks]

    def next(self, chunk: np.ndarray) -> np.ndarray:
        """Return the present action `(N, A)`, given the chunk `(N, H, A)` that begins with it."""
        self._chunks = [*self._chunks, chunk][-chunk.shape[1] :]
        ages = range(len(self._chunks) - 1, -1, -1)
        said = np.stack([one[:, age] for one, age in zip(self._chunks, ages, strict=True)])
        # What all share is taken out first: only ratios count, and large numbers would overflow.
        exponents = -self.m * np.arange(len(said))
        weights = np.exp(exponents - exponents.max())
        return np.tensordot(weights / weights.sum(), said, axes=1).astype(chunk.dtype)
