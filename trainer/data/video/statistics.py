"""Statistics of camera frames, per channel, exact from counts of the 256 values."""

from __future__ import annotations

import numpy as np

from trainer.data.statistics import QUANTILES, STATISTICS

_LARGE = 300
_ENOUGH = 150


class FrameStatistics:
    """Counts the values of frames as they come; nothing but the counts is kept.

    Of frames with a side above 300 pixels every k-th pixel is counted, so that 150 or more are left on it.
    """

    def __init__(self) -> None:
        self.frames = 0
        self._counts = np.zeros((3, 256), np.int64)

    def add(self, frame: np.ndarray) -> None:
        """Count a frame, uint8 `(H, W, 3)`."""
        side = max(frame.shape[:2])
        step = 1 if side < _LARGE else side // _ENOUGH
        for channel in range(3):
            values = frame[::step, ::step, channel].reshape(-1)
            self._counts[channel] += np.bincount(values, minlength=256)
        self.frames += 1

    def merge(self, other: FrameStatistics) -> None:
        """Add what another has counted."""
        self.frames += other.frames
        self._counts += other._counts

    def result(self) -> dict[str, np.ndarray]:
        """Return the statistics as LeRobot has them: of values in [0, 1], `(3, 1, 1)`; `count` in frames."""
        assert self.frames, "statistics of nothing"
        values = np.arange(256) / 255
        total = self._counts.sum(axis=1, keepdims=True)
        mean = (self._counts * values).sum(axis=1, keepdims=True) / total
        variance = (self._counts * (values - mean) ** 2).sum(axis=1, keepdims=True) / total
        found = {"mean": mean, "std": np.sqrt(variance)}
        ends = np.cumsum(self._counts, axis=1)
        for name, level in (("min", 0.0), ("max", 1.0), *QUANTILES.items()):
            found[name] = np.array([[_at(end, level)] for end in ends]) / 255
        shaped = {name: array.reshape(3, 1, 1) for name, array in found.items()}
        return {name: shaped.get(name, np.array([self.frames])) for name in STATISTICS}


def _at(ends: np.ndarray, level: float) -> float:
    """Return a quantile of counted values, linear between neighbours; `ends` are the running sums."""
    place = level * (int(ends[-1]) - 1)
    below = int(place)
    low = int(np.searchsorted(ends, below, side="right"))
    high = int(np.searchsorted(ends, min(below + 1, int(ends[-1]) - 1), side="right"))
    return low + (high - low) * (place - below)
