"""Numbers that training makes little of: still, hardly moving, with heavy tails, quaternions of two signs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.data.normalization import is_constant
from trainer.data.statistics import RESOLUTION, by_dataset, mixture_key
from trainer.templates import TrainingDataset
from trainer.utils.text import MINUS, listed, number

NEARLY_STORED = 64
"""What varies by no more than so many times what its storage can tell apart is hardly more than rounding."""

FAR_LESS = 1000
"""A dimension hardly moves where another of its feature has so many times its standard deviation."""

HEAVY = 5
"""Tails are heavy where all numbers take more than so many times the range from 1 % to 99 % of them."""

UNIT = 0.01
"""How far the length of a quaternion may be from 1."""

_NEAR = 0.7
"""Cosine of half the angle of a rotation: that of 90 degrees."""


@dataclass(frozen=True)
class Oddity:
    """Something about a feature that a person should know before training on it.

    Attributes:
        kind: `constant`, `near_constant`, `heavy_tails` or `quaternion`.
        message: one sentence without its full stop.
    """

    kind: str
    message: str


def dimension_names(names: Any, shape: Sequence[int]) -> list[str]:
    """Return a name for each number of a feature: the dataset's where it has them, else its place.

    Args:
        names: what `info.json` says.
        shape: of one frame.
    """
    size = int(np.prod(shape, dtype=np.int64))
    if isinstance(names, dict) and len(names) == 1:  # some writers name the axis first
        names = next(iter(names.values()))
    if isinstance(names, list) and len(names) == size and size > 1:
        return [str(name) for name in names]
    if size == 1:
        return [""]
    return [",".join(map(str, np.unravel_index(i, tuple(shape)))) for i in range(size)]


def dataset_oddities(
    dataset: TrainingDataset, stats: Mapping[str, Mapping[str, Any]] | None
) -> Iterator[Oddity]:
    """Yield what is odd about the numbers of a dataset that have statistics.

    Args:
        dataset: gives the names of dimensions and, where they are at hand, all numbers.
        stats: its `norm_stats`; of a mixture, under `<dataset>/<feature>`.
    """
    facts = dataset.facts()
    of_each = {one["name"]: one for one in facts.get("datasets", ())}
    for part, features in by_dataset(stats or {}).items():
        described = of_each.get(part, facts).get("features") or {}
        for name, values in features.items():
            key = mixture_key(part, name)
            shape = np.shape(values.get("min", 0.0))
            names = dimension_names((described.get(name) or {}).get("names"), shape)
            yield from oddities(key, names, values, dataset.feature_values(key))


def oddities(
    feature: str, names: Sequence[str], stats: Mapping[str, np.ndarray], values: np.ndarray | None = None
) -> Iterator[Oddity]:
    """Yield what is odd about the numbers of a feature.

    Only constants are named of integers and flags, which are not normalized unless somebody asks for it.

    Args:
        feature: its name.
        names: of its D dimensions.
        stats: `normalization_statistics` of it; those of another writer serve as far as they go.
        values: all of its values, `(N, …)` with D numbers in each, finite; without them quaternions are not
            looked at.
    """
    used = ("min", "max", "std", "q01", "q99", RESOLUTION)
    flat = {name: np.asarray(stats[name], np.float64).reshape(-1) for name in used if name in stats}
    if not {"min", "max"} <= set(flat) or len(flat["min"]) != len(names):
        return
    low, high, resolution = flat["min"], flat["max"], flat.get(RESOLUTION)
    constant = is_constant(low, high, resolution)
    if constant.any():
        yield Oddity("constant", _some(feature, names, constant, "never changes", "never change"))
    if resolution is not None and not resolution.any():
        return
    if {"std", "q01", "q99"} <= set(flat):
        inner = flat["q99"] - flat["q01"]
        hardly = _hardly_moving(flat, constant)
        if hardly:
            which = np.isin(np.arange(len(names)), list(hardly))
            first = min(hardly)
            why = hardly[first] if len(hardly) == 1 else f"{names[first]} {hardly[first]}, …"
            text = _some(feature, names, which, "hardly moves", "hardly move")
            yield Oddity("near_constant", f"{text} ({why})")
        heavy = ~constant & (inner > 0) & (high - low > HEAVY * inner)
        heavy &= ~np.isin(np.arange(len(names)), list(hardly))
        if heavy.any():
            at = int(np.argmax(np.where(heavy, (high - low) / np.where(inner > 0, inner, 1), 0)))
            of = f" of {names[at]}" if len(names) > 1 else ""
            text = _some(feature, names, heavy, "has heavy tails", "have heavy tails")
            yield Oddity(
                "heavy_tails",
                f"{text}: 98 % of the numbers{of} lie from {number(flat['q01'][at])} to "
                f"{number(flat['q99'][at])}, all of them from {number(low[at])} to {number(high[at])}",
            )
    if values is not None and values.dtype.kind == "f":
        yield from _quaternions(feature, names, values.reshape(len(values), -1))


def _hardly_moving(flat: Mapping[str, np.ndarray], constant: np.ndarray) -> dict[int, str]:
    """Return the dimensions that hardly move, each with the reason."""
    low, high, std = flat["min"], flat["max"], flat["std"]
    resolution = flat.get(RESOLUTION, np.zeros_like(low))
    found: dict[int, str] = {}
    for i in np.flatnonzero(~constant):
        if flat["q01"][i] == flat["q99"][i]:
            found[int(i)] = f"is {number(flat['q01'][i])} in 98 % of the frames"
        elif high[i] - low[i] <= NEARLY_STORED * resolution[i]:
            found[int(i)] = (
                f"varies by {number(high[i] - low[i])}, and its storage tells {number(resolution[i])} apart"
            )
        elif 0 < std[i] * FAR_LESS < std.max():
            found[int(i)] = f"has {number(float(f'{std.max() / std[i]:.2g}'))} times less spread than another"
    return found


def _quaternions(feature: str, names: Sequence[str], values: np.ndarray) -> Iterator[Oddity]:
    """Yield what is wrong with four numbers that are, by their names or their length, a quaternion."""
    frames = len(values)
    for first in quaternion_places(feature, names, values):
        four = values[:, first : first + 4].astype(np.float64)
        where = f"'{feature}' holds a quaternion ({', '.join(names[first : first + 4])})"
        length = np.linalg.norm(four, axis=1)
        off = int((np.abs(length - 1) > UNIT).sum())
        if off:
            yield Oddity(
                "quaternion",
                f"{where} whose length is not 1 in {off:,} of {frames:,} frames, but "
                f"{number(length.min())} to {number(length.max())}",
            )
        # The mean of all rotations, whatever their signs. What is within 90 degrees of it on either side
        # differs in its sign more than in its rotation.
        along = four @ np.linalg.eigh(four.T @ four)[1][:, -1]
        rarer = min(int((along > _NEAR).sum()), int((along < -_NEAR).sum()))
        if rarer:
            turns = int(((four[1:] * four[:-1]).sum(axis=1) < -_NEAR).sum())
            yield Oddity(
                "quaternion",
                f"{where} of both signs, though q and {MINUS}q are the same rotation: {rarer:,} of "
                f"{frames:,} frames have the rarer one, and it changes {turns:,} times from one frame to the "
                "next",
            )


def quaternion_places(feature: str, names: Sequence[str], values: np.ndarray) -> list[int]:
    """Return where quaternions begin: four numbers so named, or that all move and have length 1 together."""
    width = values.shape[1]
    moves = np.ptp(values, axis=0) > 0
    said = "quat" in feature.lower().rpartition(".")[2] and width % 4 == 0
    found: list[int] = []
    first = 0
    while first + 4 <= width:
        which = slice(first, first + 4)
        if said or _are_named(names[which]):
            is_one = bool(moves[which].any())
        else:
            few = slice(None, None, max(1, len(values) // 64))  # most are refused by these
            is_one = bool(moves[which].all()) and all(
                _have_length_1(values[rows, which]) for rows in (few, slice(None))
            )
            is_one = is_one and not bool(np.isin(values[:, which], (0, 1)).all())  # one of four classes is 1
        found += [first] if is_one else []
        first += 4 if is_one else 1
    return found


def _have_length_1(four: np.ndarray) -> bool:
    return bool((np.abs(np.linalg.norm(four.astype(np.float64), axis=1) - 1) < 1e-3).all())


def _are_named(names: Sequence[str]) -> bool:
    """Tell the names of a quaternion: `…quat_0` to `…quat_3`, or `qx`, `qy`, `qz`, `qw` in any order."""
    lower = [name.lower() for name in names]
    before = {name[:-1] for name in lower}
    if len(before) > 1:
        return False
    said = before.pop()
    letters = sorted(name[-1:] for name in lower) == ["w", "x", "y", "z"]
    return "quat" in said or (letters and (said.endswith("q") or "rot" in said or "ori" in said))


def _some(feature: str, names: Sequence[str], which: np.ndarray, one: str, several: str) -> str:
    """Say of which dimensions of a feature something is true."""
    count = int(which.sum())
    if count == len(names):
        return f"'{feature}' {one}"
    shown = [name for name, is_one in zip(names, which, strict=True) if is_one]
    noun, verb = ("dimension", one) if count == 1 else ("dimensions", several)
    return f"'{feature}' has {count:,} {noun} of {len(names)} that {verb}: {listed(shown, 8)}"
