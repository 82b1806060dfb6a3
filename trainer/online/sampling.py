"""Which windows are drawn: weights of collected steps, and draws that are pure functions of numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainer.config.online import ReplayConfig
from trainer.online.episode import AUTO

_WORD = 2**64
_OLDEST = 700.0
"""So many times `recent_steps` old, a window is drawn as often as any that is older: e⁻⁷⁰⁰ is a number."""


def step_weights(
    settings: ReplayConfig,
    control_mode: np.ndarray,
    labelled: np.ndarray,
    success: np.ndarray,
    age: np.ndarray,
) -> np.ndarray:
    """Return how often the window of each step is drawn against others, float64 `(N,)`; 0: never.

    Args:
        settings: `online.replay`.
        control_mode: int8 `(N,)`.
        labelled: bool `(N,)`, whether the action is that of an expert or a person.
        success: bool `(N,)`, whether the step's episode came to its goal.
        age: int64 `(N,)`, how many steps are newer.
    """
    usable = labelled.copy() if settings.sampling == "expert" else np.ones(len(labelled), bool)
    if not settings.keep_failures:
        usable &= labelled | success
    weights = usable.astype(np.float64)
    if settings.sampling == "recent":
        weights *= np.exp(-np.minimum(age / settings.recent_steps, _OLDEST))
    elif settings.sampling == "intervention":
        weights[control_mode != AUTO] *= settings.intervention_weight
    return weights


class DrawTable:
    """Steps that are drawn with replacement, each by its weight.

    Args:
        weights: float64 `(N,)`, none below 0.

    Attributes:
        rows: the steps with a weight above 0, ascending, int64.
    """

    def __init__(self, weights: np.ndarray) -> None:
        self.rows = np.flatnonzero(weights)
        self._up_to = np.cumsum(weights[self.rows])

    def draw(self, shares: np.ndarray) -> np.ndarray:
        """Return the steps that lie at these shares of all weight, int64 `(n,)`.

        Args:
            shares: float64 `(n,)` in [0, 1).
        """
        places = np.searchsorted(self._up_to, shares * self._up_to[-1], side="right")
        # Rounding may reach the very end.
        return self.rows[np.minimum(places, len(self.rows) - 1)]


def shares(numbers: Sequence[int], first: int, count: int) -> np.ndarray:
    """Return random numbers uniform in [0, 1), float64 `(count,)`, a pure function of the arguments.

    They are PCG64's, whose stream numpy keeps unchanged between versions.

    Args:
        numbers: which stream.
        first: place in the stream of the first of them.
        count: how many.
    """
    generator = np.random.PCG64(np.random.SeedSequence([number % _WORD for number in numbers]))
    words: np.ndarray = generator.random_raw(first + count)[first:]
    return (words >> np.uint64(11)) * 2.0**-53
