"""Windows of time steps around a frame: which ones, and all those of a batch at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trainer.data.errors import WindowError
from trainer.data.lerobot.info import TOLERANCE_S

OLDEST_FIRST = "oldest_first"
NEWEST_FIRST = "newest_first"
HISTORY_ORDERS = (OLDEST_FIRST, NEWEST_FIRST)


FLAGS = "_is_pad"
"""What the flags of a window are called: its key and this."""


@dataclass(frozen=True)
class Window:
    """The frames of one feature that a sample holds.

    Attributes:
        key: the feature.
        offsets: frames relative to the sample's own, in the order in which they are returned.
        called: what it is called in a sample, if not by its own name.
    """

    key: str
    offsets: tuple[int, ...]
    called: str | None = None

    @property
    def name(self) -> str:
        """What it is called in a sample."""
        return self.called or self.key

    @property
    def span(self) -> int:
        """Number of frames from the earliest to the latest, both included."""
        return max(self.offsets) - min(self.offsets) + 1


def frame_stride(hz: float, fps: float, furthest: int) -> int:
    """Return how many recorded frames one step of `1/hz` seconds is.

    Args:
        hz: control rate asked for.
        fps: rate of the recording.
        furthest: number of steps to the furthest frame of any window; it too must fall on a frame.

    Raises:
        ValueError: steps of `1/hz` do not fall on recorded frames.
    """
    stride = round(fps / hz)
    # At least one step is looked at, so that a nonsensical rate is refused for windows of one frame as well.
    drift = max(furthest, 1) * abs(1 / hz - stride / fps)
    if stride < 1 or drift > TOLERANCE_S:
        rates = ", ".join(f"{fps / n:g}" for n in range(1, 5))
        raise ValueError(
            f"{hz:g} Hz does not fall on the frames of a recording at {fps:g} frames/s, "
            f"which has rates such as {rates}"
        )
    return stride


def action_offsets(horizon: int, offset: int, stride: int) -> tuple[int, ...]:
    """Return the frames of an action chunk: `offset … offset + horizon − 1` steps from now."""
    return tuple(stride * (offset + i) for i in range(horizon))


def history_offsets(history: int, order: str, stride: int) -> tuple[int, ...]:
    """Return the frames of an observation history that ends now, oldest or newest first."""
    assert order in HISTORY_ORDERS
    steps = range(-(history - 1), 1) if order == OLDEST_FIRST else range(0, -history, -1)
    return tuple(stride * i for i in steps)


class WindowGather:
    """Gathers the windows of whole batches from contiguous columns.

    A frame outside the sample's episode is replaced by the episode's first or last one and flagged.

    Args:
        columns: feature → array `(N, *shape)`; all episodes, each a run of rows. Of a feature that is not
            among them the row numbers are gathered, int64, for whoever has its values.
        windows: what to gather.
        starts: first row of each episode, int64 `(E,)`, ascending; together they cover all N rows.
        lengths: rows of each episode, int64 `(E,)`.

    Raises:
        WindowError: a window is longer than every episode.
    """

    def __init__(
        self,
        columns: Mapping[str, np.ndarray],
        windows: Sequence[Window],
        starts: np.ndarray,
        lengths: np.ndarray,
    ) -> None:
        longest = int(lengths.max())
        for window in windows:
            if window.span > longest:
                raise WindowError(
                    window.key,
                    f"a window of {window.span} frames of '{window.key}' is longer than every episode; "
                    f"the longest has {longest} frames",
                )
        # One row per frame, so that a batch needs no search for its episodes.
        self._begin(columns, windows, np.repeat(starts, lengths), np.repeat(starts + lengths - 1, lengths))

    @classmethod
    def of_runs(
        cls,
        columns: Mapping[str, np.ndarray],
        windows: Sequence[Window],
        first: np.ndarray,
        last: np.ndarray,
    ) -> WindowGather:
        """Return one whose windows end where each row says, however short what lies between is.

        Making it copies nothing, so that one is made anew where columns have grown.

        Args:
            columns: feature → array `(N, *shape)`, as for a gather of episodes.
            windows: what to gather.
            first: the first row that a window of each row may reach, int64 `(N,)`.
            last: the last one.
        """
        gather = cls.__new__(cls)
        gather._begin(columns, windows, first, last)
        return gather

    def _begin(
        self,
        columns: Mapping[str, np.ndarray],
        windows: Sequence[Window],
        first: np.ndarray,
        last: np.ndarray,
    ) -> None:
        self._columns = {window.key: columns.get(window.key) for window in windows}
        self._first, self._last = first, last
        # Windows with the same offsets share their row numbers.
        self._by_offsets: dict[tuple[int, ...], list[Window]] = {}
        for window in windows:
            self._by_offsets.setdefault(window.offsets, []).append(window)
        self._offsets = {offsets: np.asarray(offsets, np.int64) for offsets in self._by_offsets}

    def __call__(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return `<name>` `(B, len(offsets), *shape)` and `<name>_is_pad` bool `(B, len(offsets))`.

        Args:
            rows: row of each sample's own frame, int64 `(B,)`.
        """
        gathered: dict[str, np.ndarray] = {}
        first = self._first[rows][:, None]
        last = self._last[rows][:, None]
        for offsets, windows in self._by_offsets.items():
            wanted = rows[:, None] + self._offsets[offsets]
            inside = _within(wanted, first, last)
            is_pad = inside != wanted
            for window in windows:
                key, name = window.key, window.name
                column = self._columns[key]
                if column is None:
                    gathered[name] = inside
                else:
                    # The rows are in range; "clip" only spares numpy its own check and a second buffer.
                    gathered[name] = column.take(inside, axis=0, mode="clip")
                gathered[f"{name}{FLAGS}"] = is_pad.copy()
        return gathered

    def rows(self, offsets: tuple[int, ...], rows: np.ndarray) -> np.ndarray:
        """Return the rows that a window holds, int64 `(B, len(offsets))`."""
        wanted = rows[:, None] + np.asarray(offsets, np.int64)
        return _within(wanted, self._first[rows][:, None], self._last[rows][:, None])


def _within(wanted: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    return np.minimum(np.maximum(wanted, first), last)
