"""Permutations as arithmetic: pure functions of seed and numbers, the same everywhere and always."""

from __future__ import annotations

import numpy as np

_WORD = 2**64


def epoch_order(seed: int, epoch: int, length: int) -> np.ndarray:
    """Return the permutation of `range(length)` in which an epoch visits its samples, int64."""
    return shuffled(length, seed, epoch)


def shuffled(length: int, seed: int, *numbers: int) -> np.ndarray:
    """Return a permutation of `range(length)`, int64, a pure function of the arguments.

    It sorts raw PCG64 words, whose stream numpy keeps unchanged between versions, unlike that of its
    `permutation`.
    """
    words = np.random.PCG64(np.random.SeedSequence([seed % _WORD, *numbers])).random_raw(length)
    return np.argsort(words, kind="stable")
