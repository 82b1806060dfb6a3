"""The seeds from which episodes start."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Literal

import numpy as np

Purpose = Literal["recording", "evaluation", "collection"]

_PURPOSES = ("recording", "evaluation", "collection")


def start_seed_sequence(seed: int, purpose: Purpose) -> Iterator[int]:
    """Yield start seeds without end, no two alike.

    A pure function of its arguments. Seeds for recording are even and seeds for evaluation are odd, both
    below 2³¹, and seeds for collecting while a policy trains lie in [2³¹, 2³²): whatever the `seed`s were, a
    policy is never tried out on a start that it was shown.

    Raises:
        ValueError: `seed` is negative, or the purpose unknown.
    """
    if seed < 0:
        raise ValueError(f"a seed must not be negative, and {seed} is")
    if purpose not in _PURPOSES:
        raise ValueError(f"start seeds are for {', '.join(_PURPOSES)}, not for '{purpose}'")
    family = _PURPOSES.index(purpose)
    random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, family])))
    drawn: set[int] = set()
    while True:
        if purpose == "collection":
            start = 2**31 + int(random.integers(2**31))
        else:
            start = 2 * int(random.integers(2**30)) + family
        if start not in drawn:
            drawn.add(start)
            yield start


def start_seeds(seed: int, count: int, purpose: Purpose) -> list[int]:
    """Return the first `count` of `start_seed_sequence(seed, purpose)`, each in [0, 2³²)."""
    return list(itertools.islice(start_seed_sequence(seed, purpose), count))
