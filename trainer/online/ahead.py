"""Collected samples of several updates in one call: what a call to another process costs is shared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from trainer.online.mixed import DrawKey

_AT_MOST = 8
"""Updates that one call draws for; those later than the first are of what was collected by then."""

_BYTES_AT_ONCE = 4 * 2**20
"""So much one call may bring: of pictures the bytes cost more than the call."""

DrawMany = Callable[[int, DrawKey, int], Mapping[str, Any]]
"""Returns, for each of so many updates from that of the key on, so many raw samples, one after the other.

They may be of fewer updates, where it is too early for the last ones."""


class DrawnAhead:
    """Draws for an update and the next ones, as far as they are small, and hands out one update's at a time.

    What an update gets is what it would have been drawn alone, at that time. One thread may call it.

    Args:
        draw: gives samples of several updates.
    """

    def __init__(self, draw: DrawMany) -> None:
        self._draw = draw
        self._updates = 1
        self._kept: dict[tuple[int, DrawKey], Mapping[str, Any]] = {}

    def __call__(self, count: int, key: DrawKey) -> Mapping[str, Any]:
        """Return `count` raw samples."""
        if (count, key) not in self._kept:
            self._kept = {asked: kept for asked, kept in self._kept.items() if asked[1].update >= key.update}
            drawn = self._draw(count, key, self._updates)
            updates = len(next(iter(drawn.values()))) // count
            for i in range(updates):
                part = slice(i * count, (i + 1) * count)
                later = key._replace(update=key.update + i)
                self._kept[count, later] = {name: value[part] for name, value in drawn.items()}
            size = sum(value.nbytes for value in drawn.values() if isinstance(value, np.ndarray))
            of_one = max(1, size // updates)
            self._updates = min(_AT_MOST, max(1, _BYTES_AT_ONCE // of_one))
        return self._kept.pop((count, key))
