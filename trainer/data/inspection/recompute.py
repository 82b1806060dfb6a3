"""`trainer data stats`: the statistics of a dataset, computed from every one of its numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.data.errors import DatasetError
from trainer.data.inspection.table import table
from trainer.data.inspection.values import dimension_names, stored_difference
from trainer.data.lerobot import LeRobotReader
from trainer.data.lerobot.info import STATS_PATH
from trainer.data.statistics import Stats, column_statistics
from trainer.utils.files import write_json
from trainer.utils.progress import progress_bar
from trainer.utils.text import number, shape

_SHOWN = ("min", "max", "mean", "std", "q01", "q50", "q99")


@dataclass(frozen=True)
class Recomputed:
    """Exact statistics beside those that the dataset has.

    Attributes:
        reader: the dataset.
        stats: exact statistics of every feature made of numbers.
        kept: the statistics of cameras, as they are stored: nobody normalizes with them.
        differences: feature → where its stored statistics are others.
        missing: whether the dataset has no statistics at all.
    """

    reader: LeRobotReader
    stats: Stats
    kept: Stats
    differences: dict[str, str]
    missing: bool

    def write(self) -> Path:
        """Write `meta/stats.json`, whole or not at all, and return its path."""
        path = self.reader.root / STATS_PATH
        everything = {name: (self.stats | self.kept).get(name) for name in self.reader.features}
        write_json(
            path,
            {
                name: {statistic: np.asarray(value).tolist() for statistic, value in values.items()}
                for name, values in everything.items()
                if values is not None
            },
        )
        return path


def recompute(root: Path) -> Recomputed:
    """Compute the statistics of every feature made of numbers over all frames.

    Raises:
        DatasetError: the dataset is missing or damaged, or a number in it is NaN or infinite.
    """
    reader = LeRobotReader(root)
    try:
        stored = reader.stats
    except DatasetError:
        stored = {}  # damaged ones are what this replaces
    stats: Stats = {}
    names = reader.numeric_features()
    with progress_bar(len(names), "computing statistics", "feature", leave=False) as bar:
        for name in names:
            column = reader.columns([name])[name]
            stats[name] = column_statistics(column.reshape(len(column), *reader.features[name].shape))
            bar.update()
    found = {n: stored_difference(stored[n], exact) for n, exact in stats.items() if n in stored}
    differences = {name: text for name, text in found.items() if text is not None}
    if stored:
        differences |= {name: "there are none" for name in stats if name not in stored}
    kept = {name: values for name, values in stored.items() if name not in stats and name in reader.features}
    return Recomputed(reader, stats, kept, differences, not stored)


def as_text(result: Recomputed) -> str:
    """Return the statistics as a table, and how they compare with the stored ones."""
    rows: list[tuple[str, ...]] = [("feature", "type", "dimension", *_SHOWN, "count")]
    for name, stats in result.stats.items():
        feature = result.reader.features[name]
        values = {statistic: np.asarray(stats[statistic], np.float64).reshape(-1) for statistic in _SHOWN}
        for i, dimension in enumerate(dimension_names(feature)):
            first = (name, f"{feature.dtype} {shape(feature.shape)}") if i == 0 else ("", "")
            shown = [number(float(values[statistic][i])) for statistic in _SHOWN]
            rows.append((*first, dimension, *shown, f"{int(stats['count'][0]):,}"))
    lines = table(rows, left=3)
    if result.missing:
        lines += ["", f"The dataset has no {STATS_PATH}."]
    elif result.differences:
        lines += ["", f"{STATS_PATH} says something else:"]
        lines += [f"  {name}: {text}" for name, text in result.differences.items()]
    else:
        lines += ["", f"{STATS_PATH} says the same (its quantiles aside, which are not compared)."]
    return "\n".join(lines)
