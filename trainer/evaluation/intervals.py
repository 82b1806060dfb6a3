"""How sure one can be of a success rate or a mean score after so many episodes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_Z = 1.959963984540054  # 97.5th percentile of the standard normal distribution


def wilson_interval(successes: int, episodes: int) -> tuple[float, float]:
    """Return the 95 % interval of a success rate (Wilson, 1927).

    With p the observed rate and n the episodes: (p + z²/2n ± z·√(p(1−p)/n + z²/4n²)) / (1 + z²/n). Unlike
    p ± z·√(p(1−p)/n) it does not claim certainty when all episodes succeed.

    Raises:
        ValueError: there are no episodes.
    """
    if episodes < 1 or not 0 <= successes <= episodes:
        raise ValueError(f"{successes} successes in {episodes} episodes have no success rate")
    p, n = successes / episodes, episodes
    scale = 1 + _Z**2 / n
    middle = (p + _Z**2 / (2 * n)) / scale
    half = _Z * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2)) / scale
    # Where nothing or everything succeeded, the far end is exactly 0 or 1; rounding must not say otherwise.
    low = 0.0 if successes == 0 else middle - half
    high = 1.0 if successes == episodes else middle + half
    return low, high


def score_interval(scores: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of a mean score within [0, 1].

    Scores that are all 0 or 1 are successes, and get the Wilson interval. Others get the normal
    approximation, mean ± z·s/√n with s the sample deviation, cut to [0, 1]; one score alone says nothing.

    Raises:
        ValueError: there are no scores.
    """
    values = np.asarray(scores, np.float64)
    if values.size == 0:
        raise ValueError("no scores have no mean")
    if np.isin(values, (0.0, 1.0)).all():
        return wilson_interval(int(values.sum()), values.size)
    if values.size == 1:
        return 0.0, 1.0
    half = _Z * values.std(ddof=1) / math.sqrt(values.size)
    return max(0.0, float(values.mean() - half)), min(1.0, float(values.mean() + half))
