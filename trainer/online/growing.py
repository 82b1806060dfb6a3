"""Columns that grow at their end and shrink at their beginning, while others read them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

_FIRST_ROOM = 1024
"""Rows for which there is room at first."""


class GrowingColumns:
    """Columns `(N, *shape)` of equal length; rows come at the end and go from the beginning.

    Arrays that were handed out keep their rows: none is written again, and where there is no room left, all
    rows move to new arrays, twice as large.

    Args:
        kinds: column → numpy type and shape of a row.
        row_numbers: those of them that hold row numbers; they follow where rows move.

    Attributes:
        begin: the first row that is there.
        end: one more than the last.
    """

    def __init__(
        self, kinds: Mapping[str, tuple[str, tuple[int, ...]]], row_numbers: Collection[str] = ()
    ) -> None:
        self._arrays = {name: np.empty((0, *shape), dtype) for name, (dtype, shape) in kinds.items()}
        self._row_numbers = row_numbers
        self._room = 0
        self.begin = self.end = 0

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.end - self.begin

    def append(self, rows: Mapping[str, np.ndarray], count: int) -> None:
        """Append rows.

        Args:
            rows: column → `(count, *shape)`; row numbers are relative to the first of these.
            count: number of rows.
        """
        if self.end + count > self._room:
            self._move(count)
        for name, array in self._arrays.items():
            new = rows[name]
            array[self.end : self.end + count] = new + self.end if name in self._row_numbers else new
        self.end += count

    def drop(self, count: int) -> None:
        """Let the first rows go."""
        self.begin += count

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the columns up to their end, without copying; rows before `begin` hold nothing of use."""
        return {name: array[: self.end] for name, array in self._arrays.items()}

    def _move(self, count: int) -> None:
        length = len(self)
        self._room = max(_FIRST_ROOM, 2 * (length + count))
        for name, old in self._arrays.items():
            new = np.empty((self._room, *old.shape[1:]), old.dtype)
            new[:length] = old[self.begin : self.end]
            if name in self._row_numbers:
                new[:length] -= self.begin
            self._arrays[name] = new
        self.begin, self.end = 0, length
