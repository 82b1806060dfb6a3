"""The numbers of one feature: their ranges, and what does not look measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trainer.data.degenerate import dimension_names, oddities, quaternion_places
from trainer.data.inspection.findings import Findings, in_places
from trainer.data.inspection.rows import Rows
from trainer.data.lerobot.info import Feature
from trainer.data.normalization import is_constant
from trainer.data.statistics import RESOLUTION, Stats, normalization_statistics
from trainer.data.stored_statistics import quantile_difference, stored_difference

_JUMP = 10.0
"""A step is a jump where it is so many times larger than the 99 % quantile of the steps that move …"""

_JUMP_SHARE = 0.2
"""… and larger than this share of the range between the 1 % and the 99 % quantile."""

_JUMP_EPISODES = 0.25
"""What happens in more than this share of the episodes belongs to the movement."""

_FEW_VALUES = 16
"""A dimension with no more different values is a switch, which may turn at once."""


@dataclass(frozen=True)
class Dimension:
    """One number of a feature over all rows; statistics are over the finite ones, NaN where there is none."""

    name: str
    low: float
    high: float
    mean: float
    std: float
    constant: bool
    broken: int
    jumps: int


@dataclass(frozen=True)
class FeatureFacts:
    """A low-dimensional feature and its dimensions."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    dimensions: tuple[Dimension, ...]


def check_values(
    feature: Feature, column: np.ndarray, rows: Rows, stored: Stats | None, findings: Findings
) -> FeatureFacts:
    """Look at all numbers of a feature.

    Args:
        feature: which one.
        column: its values `(N, *shape)`.
        rows: to which episode and frame each belongs.
        stored: statistics of the dataset's writer that should be those of these values; None to leave
            them out of it.
        findings: where what is found goes.
    """
    flat = column.reshape(len(column), -1)
    names = dimension_names(feature.names, feature.shape)
    _check_finite(feature, flat, rows, findings)
    floats = flat.dtype.kind == "f"
    moving = _of_one_sign(flat, quaternion_places(feature.name, names, flat) if floats else ())
    jumps = []
    dimensions = []
    found: list[Mapping[str, np.ndarray] | None] = []
    for i, name in enumerate(names):
        values = flat[:, i]
        finite = np.isfinite(values) if values.dtype.kind == "f" else np.ones(len(values), bool)
        stats = normalization_statistics(values[finite][:, None]) if finite.any() else None
        low, high, mean, std = (
            float(stats[s][0]) if stats else math.nan for s in ("min", "max", "mean", "std")
        )
        jumps.append(_jumps(moving[:, i], rows) if floats else np.zeros(len(values), bool))
        constant = stats is not None and bool(is_constant(stats["min"], stats["max"], stats[RESOLUTION])[0])
        dimensions.append(
            Dimension(name, low, high, mean, std, constant, int((~finite).sum()), int(jumps[-1].sum()))
        )
        found.append(stats)
    facts = FeatureFacts(feature.name, feature.dtype, feature.shape, tuple(dimensions))
    _report_jumps(feature, names, jumps, rows, findings)
    together = [stats for stats in found if stats is not None]
    if together and len(together) == len(names):
        exact = {name: np.concatenate([stats[name] for stats in together]) for name in together[0]}
        _report_oddities(feature, names, exact, flat, findings)
        if not any(d.broken for d in dimensions):
            exact["count"] = exact["count"][:1]
            _compare(feature, column, exact, stored or {}, findings)
    return facts


def _report_oddities(
    feature: Feature, names: list[str], exact: Mapping[str, np.ndarray], flat: np.ndarray, findings: Findings
) -> None:
    whole = flat[np.isfinite(flat).all(axis=1)] if flat.dtype.kind == "f" else flat
    for oddity in oddities(feature.name, names, exact, whole):
        # Rewards and the like are no input of a policy, and hardly move as a rule.
        if oddity.kind == "constant" or not feature.name.startswith("next."):
            findings.remark(oddity.kind, oddity.message, feature=feature.name)


def _compare(
    feature: Feature,
    column: np.ndarray,
    exact: Mapping[str, np.ndarray],
    stored: Stats,
    findings: Findings,
) -> None:
    """Hold the statistics of the whole dataset against its numbers."""
    given = stored.get(feature.name, {})
    difference = stored_difference(given, exact)
    if difference is not None:
        findings.fault(
            "stats",
            f"meta/stats.json does not belong to this data: of '{feature.name}', {difference}; "
            "recompute it with `trainer data stats --write`",
            feature=feature.name,
        )
        return
    difference = quantile_difference(given, column)
    if difference is not None:
        findings.remark(
            "quantiles",
            f"meta/stats.json has quantiles that are none: of '{feature.name}', {difference}; "
            "`trainer data stats --write` makes exact ones",
            feature=feature.name,
        )


def _check_finite(feature: Feature, flat: np.ndarray, rows: Rows, findings: Findings) -> None:
    if flat.dtype.kind != "f":
        return
    for kind, what, test in (("nan", "NaN", np.isnan), ("infinite", "an infinite number", np.isinf)):
        bad = test(flat).any(axis=1)
        where = np.flatnonzero(bad)
        if not len(where):
            continue
        episodes = rows.episode[where].tolist()
        place = in_places(len(where), episodes, int(rows.frame[where[0]]), int(rows.episode[where[0]]))
        findings.fault(kind, f"'{feature.name}' has {what} {place}", feature=feature.name, episodes=episodes)


def _of_one_sign(flat: np.ndarray, places: Sequence[int]) -> np.ndarray:
    """Return the numbers with quaternions written so that none changes its sign from one row to the next.

    q and -q are the same rotation, and a change between them is no movement.

    Args:
        flat: numbers `(N, D)`.
        places: where four of them are a quaternion.
    """
    if not places:
        return flat
    flat = flat.copy()
    for first in places:
        four = flat[:, first : first + 4]
        turns = (four[1:] * four[:-1]).sum(axis=1) < 0
        four[1:] *= np.where(np.cumsum(turns) % 2, -1, 1)[:, None].astype(four.dtype)
    return flat


def _jumps(values: np.ndarray, rows: Rows) -> np.ndarray:
    """Return the rows that lie a step away from the one before which no other step comes near, bool `(N,)`.

    Turns of an angle and mirrored numbers are none: they are the same pose written otherwise.
    """
    values = values.astype(np.float64)
    jump = np.zeros(len(values), bool)
    follows = (rows.episode[1:] == rows.episode[:-1]) & (rows.frame[1:] == rows.frame[:-1] + 1)
    with np.errstate(invalid="ignore"):
        step = np.where(follows, np.abs(np.diff(values)), 0.0)
    step[~np.isfinite(step)] = 0.0
    moving = step[step > 0]
    if len(moving) < 10 or len(np.unique(values[np.isfinite(values)])) <= _FEW_VALUES:
        return jump
    low, high = np.quantile(values[np.isfinite(values)], [0.01, 0.99])
    limit = max(_JUMP * float(np.quantile(moving, 0.99)), _JUMP_SHARE * (high - low))
    # Among few steps the quantile is itself a jump: then the median says what a usual step is.
    if len(moving) < 500:
        limit = max(3 * _JUMP * float(np.median(moving)), _JUMP_SHARE * (high - low))
    large = step > limit
    with np.errstate(invalid="ignore"):
        mirrored = np.abs(values[1:] + values[:-1]) < 0.05 * step
    largest = float(np.abs(values[np.isfinite(values)]).max())
    turned = np.zeros(len(step), bool)
    for turn in (2 * math.pi, 360.0):
        turned |= (np.abs(step - turn) < 0.1 * turn) & (largest < 1.1 * turn)
    jump[1:] = large & ~mirrored & ~turned
    return jump


def _report_jumps(
    feature: Feature, names: list[str], jumps: list[np.ndarray], rows: Rows, findings: Findings
) -> None:
    """Remark the dimensions that jump; what they measure may have done so, so it is no fault.

    An object that is put back or grasped anew, a gripper, a contact: all jump. What goes far off for a frame
    and returns is more likely a reading that failed, but nothing in the numbers proves it.
    """
    few = max(1.0, _JUMP_EPISODES * len(np.unique(rows.episode)))
    habits = [len(np.unique(rows.episode[jump])) > few for jump in jumps]
    for habit in (False, True):
        which = [i for i, jump in enumerate(jumps) if jump.any() and habits[i] == habit]
        if not which:
            continue
        jump = np.any([jumps[i] for i in which], axis=0)
        ending = "as it does in many episodes: a switch, or a sensor that drops out"
        if not habit:
            ending = f"much further than in any usual step, {_how(jump)}"
        where = np.flatnonzero(jump)
        episodes = rows.episode[where].tolist()
        place = in_places(len(where), episodes, int(rows.frame[where[0]]), int(rows.episode[where[0]]))
        shown = ", ".join(names[i] for i in which[:4]) + (", …" if len(which) > 4 else "")
        of = f" (dimension {shown})" if len(names) > 1 else ""
        findings.remark(
            "jump",
            f"'{feature.name}'{of} jumps {place}, {ending}",
            feature=feature.name,
            episodes=episodes,
        )


def _how(jump: np.ndarray) -> str:
    """Say what kind of jumps these rows are: there and back in a frame, or to stay."""
    back = jump[1:] & jump[:-1]
    alone = jump.copy()
    alone[1:] &= ~back
    alone[:-1] &= ~back
    if not alone.any():
        return "and back in the next frame, as a reading that failed does"
    stays = "and does not come back at once, as an object does that is put back or turns over"
    return stays if not back.any() else f"{stays}; in other places it does, as a reading that failed"
