"""Reading `metrics.jsonl`, however long, and thinning it to what a screen can show."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

_ROWS_PER_BLOCK = 4096


@dataclass(frozen=True)
class Series:
    """One metric over the run.

    Attributes:
        steps: (N,) float64, strictly increasing training steps.
        values: (N,) float64; NaN and infinities are kept.
    """

    name: str
    steps: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Metrics:
    """All that `metrics.jsonl` holds.

    Attributes:
        series: metric name to series, in the order of first appearance; `step` itself is not one.
        records: lines that were read.
        unreadable: complete lines that are no record, such as what a crash left in the middle of the file.
        truncated: the last line is incomplete, as a killed run leaves it.
        replaced: records superseded because the run was resumed from an earlier step.
    """

    series: dict[str, Series] = field(default_factory=dict)
    records: int = 0
    unreadable: int = 0
    truncated: bool = False
    replaced: int = 0

    @property
    def steps_done(self) -> float | None:
        """How many steps the records reach: the first step may be called 0 or 1."""
        if self.last_step is None:
            return None
        from_zero = any(series.steps[0] == 0 for series in self.series.values())
        return self.last_step + from_zero

    @property
    def last_step(self) -> float | None:
        """The last recorded step, `None` before the first."""
        return max((float(series.steps[-1]) for series in self.series.values()), default=None)


@dataclass(frozen=True)
class Curve:
    """A series thinned to at most a few hundred points.

    Attributes:
        steps: (P,) the step that each point stands for.
        low, high: (P,) smallest and largest finite record that the point covers, NaN where it has none.
        mean: (P,) moving average of the finite records.
        last: the last record, which may be NaN or infinite.
        window: records that the moving average spans.
        broken_steps: steps whose record is NaN or infinite, at most 200 of them spread over all.
        broken: how many there are.
    """

    name: str
    steps: np.ndarray
    low: np.ndarray
    high: np.ndarray
    mean: np.ndarray
    last: float
    window: int
    broken_steps: np.ndarray
    broken: int


class _Columns:
    """Collects records column by column; blocks of records with the same keys are converted at once."""

    def __init__(self) -> None:
        self.blocks: dict[str, list[tuple[np.ndarray, np.ndarray]]] = defaultdict(list)
        self._keys: tuple[str, ...] = ()
        self._rows: list[tuple[Any, ...]] = []

    def add(self, record: dict[str, Any]) -> None:
        keys = tuple(record)
        if keys != self._keys or len(self._rows) == _ROWS_PER_BLOCK:
            self.flush()
            self._keys = keys
        self._rows.append(tuple(record.values()))

    def flush(self) -> None:
        if not self._rows:
            return
        step_column = self._keys.index("step")
        try:
            table = np.array(self._rows, dtype=np.float64)
        except (ValueError, TypeError, OverflowError):
            self._add_one_by_one(step_column)
        else:
            for column, key in enumerate(self._keys):
                self.blocks[key].append((table[:, step_column], table[:, column]))
        self._rows = []

    def _add_one_by_one(self, step_column: int) -> None:
        """Take the numbers out of rows that also hold text or lists, which are no curves."""
        for row in self._rows:
            for key, value in zip(self._keys, row, strict=True):
                try:
                    single = np.array([row[step_column], value], dtype=np.float64)
                except (ValueError, TypeError, OverflowError):
                    continue
                self.blocks[key].append((single[:1], single[1:]))

    def series(self, key: str) -> tuple[Series, int]:
        """Return the series of `key` and how many of its records a resumed run has superseded."""
        steps = np.concatenate([block_steps for block_steps, _ in self.blocks[key]])
        values = np.concatenate([block_values for _, block_values in self.blocks[key]])
        # A resumed run appends steps that are already there: the record written last is the one that counts.
        later_minimum = np.minimum.accumulate(steps[::-1])[::-1]
        keep = np.append(steps[:-1] < later_minimum[1:], True)
        return Series(key, steps[keep], values[keep]), int((~keep).sum())


def read_metrics(path: Path) -> Metrics:
    """Read all numbers of a metrics file.

    `null`, `NaN` and `Infinity` count as values that are not finite. An incomplete last line is left out.

    Raises:
        OSError: the file cannot be opened.
    """
    columns = _Columns()
    records = unreadable = 0
    truncated = False
    with path.open("rb") as file:
        for line in file:
            if not line.strip():
                continue
            record = _parse(line)
            if record is not None:
                records += 1
                columns.add(record)
            elif line.endswith(b"\n"):
                unreadable += 1
            else:
                truncated = True
    columns.flush()
    read = {key: columns.series(key) for key in columns.blocks}
    return Metrics(
        series={key: series for key, (series, _) in read.items() if key != "step"},
        records=records,
        unreadable=unreadable,
        truncated=truncated,
        replaced=read["step"][1] if "step" in read else 0,
    )


def thin(series: Series, points: int, smooth: bool = True) -> Curve:
    """Cover a series by at most `points` buckets and keep the envelope and the moving average of each.

    Without `smooth` the average is that of the bucket alone, as a schedule wants it that has no noise.
    """
    count = len(series.steps)
    buckets = min(points, count)
    edges = np.linspace(0, count, buckets + 1).astype(np.int64)
    starts = edges[:-1]
    finite = np.isfinite(series.values)
    values = np.where(finite, series.values, np.nan)

    steps = series.steps[(edges[:-1] + edges[1:] - 1) // 2].copy()
    steps[0], steps[-1] = series.steps[0], series.steps[-1]

    with np.errstate(all="ignore"):
        sums = np.add.reduceat(np.where(finite, series.values, 0.0), starts)
    weights = np.add.reduceat(finite.astype(np.float64), starts)
    half = buckets // 50 if smooth else 0
    mean = _moving_average(sums, weights, half)

    broken_steps = series.steps[~finite]
    shown = np.linspace(0, len(broken_steps) - 1, min(200, len(broken_steps))).astype(np.int64)
    return Curve(
        name=series.name,
        steps=steps,
        low=np.fmin.reduceat(values, starts),
        high=np.fmax.reduceat(values, starts),
        mean=mean,
        last=float(series.values[-1]),
        window=max(1, round((2 * half + 1) * count / buckets)),
        broken_steps=broken_steps[shown],
        broken=len(broken_steps),
    )


def _moving_average(sums: np.ndarray, weights: np.ndarray, half: int) -> np.ndarray:
    """Average each bucket with `half` buckets on either side, fewer at the ends; (P,) -> (P,)."""
    width = 2 * half + 1
    window = np.lib.stride_tricks.sliding_window_view
    with np.errstate(all="ignore"):
        total = window(np.pad(sums, half), width).sum(axis=1)
        weight = window(np.pad(weights, half), width).sum(axis=1)
        mean = total / weight
    # A stretch without one finite record stays empty instead of being filled from its neighbours.
    return np.where(np.isfinite(mean) & (weights > 0), mean, np.nan)


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    step = record.get("step")
    is_step = isinstance(step, (int, float)) and abs(step) < 1e15  # false for NaN as well
    return record if is_step else None
