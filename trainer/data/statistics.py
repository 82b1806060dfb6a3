"""Exact statistics of a low-dimensional column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np

QUANTILES: dict[str, float] = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
STATISTICS = ("min", "max", "mean", "std", "count", *QUANTILES)

COMPARED = ("count", "min", "max", "mean", "std")
"""Statistics that every writer means alike, so that those of others can be held against the data."""

RESOLUTION = "resolution"
"""Distance of neighbouring numbers where the column has its largest: what it is stored in can tell no less.

It is 0 where the column holds integers or booleans. Statistics that were written elsewhere have none.
"""

Stats = dict[str, dict[str, np.ndarray]]
"""Feature name → name of the statistic → array of the feature's shape (`count`: shape (1,))."""

T = TypeVar("T")


def mixture_key(dataset: str | None, feature: str) -> str:
    """Return the name of a feature's statistics in those of a mixture; no feature has a `/` in its name."""
    return feature if dataset is None else f"{dataset}/{feature}"


def by_dataset(stats: Mapping[str, T]) -> dict[str | None, dict[str, T]]:
    """Return dataset → feature → statistics, in the order of appearance; outside a mixture it is None.

    Raises:
        ValueError: some statistics are those of a mixture, others are not.
    """
    parts: dict[str | None, dict[str, T]] = {}
    for key, values in stats.items():
        dataset, slash, feature = key.rpartition("/")
        parts.setdefault(dataset if slash else None, {})[feature] = values
    if None in parts and len(parts) > 1:
        raise ValueError(f"the statistics of {', '.join(map(str, parts))} lie beside some without a dataset")
    return parts


def column_statistics(values: np.ndarray, rows: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Return min, max, mean, std, count and quantiles over the first axis, or over some `rows` of it.

    Everything is computed in float64 from all values: two passes for the standard deviation (that of
    the population), a full sort for the quantiles (linear interpolation between neighbours). One
    dimension is worked on at a time, so the extra memory is one float64 vector of length N.

    Args:
        values: numbers or booleans of shape `(N, *shape)` with N ≥ 1.
        rows: which of them count, int64; all if not given.

    Returns:
        Arrays of the shape `shape`, float64; `min` and `max` of integers stay int64; `count` is int64
        of shape (1,).
    """
    assert len(values) > 0, "statistics of nothing"
    flat = values.reshape(len(values), -1)
    width = flat.shape[1]
    found: dict[str, np.ndarray] = {
        name: np.empty(width, np.float64) for name in STATISTICS if name != "count"
    }
    whole = np.empty((2, width), np.int64)  # float64 has no room for the largest integers
    for i in range(width):
        chosen = flat[:, i] if rows is None else flat[rows, i]
        if values.dtype.kind in "iu":
            whole[:, i] = chosen.min(), chosen.max()
        column = np.sort(chosen.astype(np.float64))
        found["min"][i], found["max"][i] = column[0], column[-1]
        # The mean of equal numbers may miss them by a rounding error; that of a constant must not.
        constant = column[0] == column[-1]
        mean = column[0] if constant else column.mean()
        found["mean"][i] = mean
        found["std"][i] = 0.0 if constant else np.sqrt(np.square(column - mean).mean())
        for name, value in zip(QUANTILES, _sorted_quantiles(column, list(QUANTILES.values())), strict=True):
            found[name][i] = value
    if values.dtype.kind in "iu":
        found["min"], found["max"] = whole
    shaped = {name: array.reshape(values.shape[1:]) for name, array in found.items()}
    count = np.array([len(values) if rows is None else len(rows)], np.int64)
    return {name: count if name == "count" else shaped[name] for name in STATISTICS}


def normalization_statistics(values: np.ndarray, rows: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Return `column_statistics` and the `RESOLUTION` of each number, which normalization needs."""
    found = column_statistics(values, rows)
    largest = np.maximum(np.abs(found["min"]), np.abs(found["max"])).astype(np.float64)
    if values.dtype.kind == "f":
        limits = np.finfo(values.dtype)
        found[RESOLUTION] = np.maximum(largest * float(limits.eps), float(limits.tiny))
    else:
        found[RESOLUTION] = np.zeros_like(largest)
    return found


def statistics_of_episodes(values: np.ndarray, lengths: np.ndarray) -> dict[str, np.ndarray]:
    """Return min, max, mean, std and count of every episode, as `column_statistics` has them of the whole.

    Args:
        values: of all episodes, one after the other, `(N, *shape)`.
        lengths: frames of each, `(E,)`, each at least 1.

    Returns:
        Arrays `(E, D)` of float64, D numbers being in a frame; `count` is `(E, 1)`.
    """
    flat = values.reshape(len(values), -1)
    starts = np.cumsum(lengths) - lengths
    found = {name: np.empty((len(lengths), flat.shape[1])) for name in ("min", "max", "mean", "std")}
    for i in range(flat.shape[1]):
        column = flat[:, i].astype(np.float64)
        found["min"][:, i] = np.minimum.reduceat(column, starts)
        found["max"][:, i] = np.maximum.reduceat(column, starts)
        mean = np.add.reduceat(column, starts) / lengths
        found["mean"][:, i] = mean
        square = np.square(column - np.repeat(mean, lengths))
        found["std"][:, i] = np.sqrt(np.add.reduceat(square, starts) / lengths)
    return {**found, "count": np.asarray(lengths, np.float64)[:, None]}


def _sorted_quantiles(column: np.ndarray, levels: list[float]) -> np.ndarray:
    place = np.asarray(levels) * (len(column) - 1)
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, len(column) - 1)
    return column[below] + (column[above] - column[below]) * (place - below)
