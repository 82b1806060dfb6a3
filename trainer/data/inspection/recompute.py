"""`trainer data stats`: the statistics of a dataset, computed from every one of its numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.degenerate import dimension_names
from trainer.data.errors import DatasetError
from trainer.data.lerobot import LeRobotReader
from trainer.data.lerobot.info import STATS_PATH
from trainer.data.statistics import Stats, column_statistics
from trainer.data.stored_statistics import quantile_difference, stored_difference
from trainer.utils.files import write_json
from trainer.utils.progress import progress_bar
from trainer.utils.tables import table
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
    differences: dict[str, str] = {}
    names = reader.numeric_features()
    with progress_bar(len(names), "computing statistics", "feature", leave=False) as bar:
        for name in names:
            column = reader.columns([name])[name]
            stats[name] = column_statistics(column.reshape(len(column), *reader.features[name].shape))
            given = stored.get(name, {})
            text = stored_difference(given, stats[name]) or quantile_difference(given, column)
            if text is not None:
                differences[name] = text
            bar.update()
    if stored:
        differences |= {name: "there are none" for name in stats if name not in stored}
    kept = {name: values for name, values in stored.items() if name not in stats and name in reader.features}
    return Recomputed(reader, stats, kept, differences, not stored)


def as_plain(result: Recomputed) -> dict[str, Any]:
    """Return the statistics, and where the stored ones are others, as JSON can hold them."""
    return {
        "root": str(result.reader.root),
        "statistics": {
            feature: {name: np.asarray(value).tolist() for name, value in stats.items()}
            for feature, stats in result.stats.items()
        },
        "missing": result.missing,
        "differences": result.differences,
    }


def as_text(result: Recomputed) -> str:
    """Return the statistics as a table, and how they compare with the stored ones."""
    rows: list[tuple[str, ...]] = [("feature", "type", "dimension", *_SHOWN, "count")]
    for name, stats in result.stats.items():
        feature = result.reader.features[name]
        values = {statistic: np.asarray(stats[statistic], np.float64).reshape(-1) for statistic in _SHOWN}
        for i, dimension in enumerate(dimension_names(feature.names, feature.shape)):
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
        lines += ["", f"{STATS_PATH} says the same."]
    return "\n".join(lines)
