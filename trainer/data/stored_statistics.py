"""The statistics that came with a dataset, held against its numbers; nothing is ever normalized by them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from trainer.data.errors import DatasetError
from trainer.data.lerobot import LeRobotReader
from trainer.data.lerobot.info import STATS_PATH
from trainer.data.statistics import COMPARED, QUANTILES, Stats, statistics_of_episodes

_QUANTILE_SHARE = 0.005
"""A stored quantile is right where the share of the numbers below it is, to so much."""

_ROUNDING = 32 * float(np.finfo(np.float32).eps)
"""What a mean of squares in float32 is off by, at most, of the largest square."""


def disagreements(
    reader: LeRobotReader, columns: Mapping[str, np.ndarray], exact: Stats, positions: np.ndarray
) -> Iterator[str]:
    """Yield, in a sentence for each place that has statistics, where they are not those of the data.

    Those of the whole dataset are looked at where all of its episodes are used, those of episodes for each
    that is used. Quantiles are left to `quantile_difference`.

    Args:
        reader: the dataset.
        columns: feature → its values over the frames of the chosen episodes, `(N, *shape)`.
        exact: feature → `column_statistics` of these.
        positions: the chosen episodes, as places in the episode table, ascending.
    """
    instead = "nothing is taken from there, statistics are computed from the data"
    try:
        stored = reader.stats if len(positions) == len(reader.episodes) else {}
        by_episode = reader.episode_stats(list(columns))
    except DatasetError as problem:
        yield f"{problem}; {instead}"
        return
    found = {key: stored_difference(stored[key], exact[key]) for key in columns if key in stored}
    wrong = {key: text for key, text in found.items() if text is not None}
    for key, text in list(wrong.items())[:1]:
        more = f" (and {len(wrong) - 1} more features)" if len(wrong) > 1 else ""
        yield (
            f"{reader.root}: {STATS_PATH} does not belong to this data: of '{key}', {text}{more}; {instead}; "
            f"`trainer data stats {reader.root} --write` makes it anew"
        )
    for key, episodes in by_episode.items():
        chosen = {name: values[positions] for name, values in episodes.items()}
        lengths, numbers = reader.episodes.length[positions], reader.episodes.episode_index[positions]
        other = episode_difference(chosen, columns[key], lengths, numbers)
        if other is not None:
            yield f"{reader.root}: {of_an_episode(key, other)}; {instead}"
            return


def of_an_episode(feature: str, text: str) -> str:
    """Return what is said of statistics of an episode, from a feature and `episode_difference`."""
    return f"the statistics of episodes in meta/ are not those of their data: of '{feature}', {text}"


def stored_difference(stored: Mapping[str, np.ndarray], exact: Mapping[str, np.ndarray]) -> str | None:
    """Say where stored statistics of a feature are not those of the data; None where they are.

    A difference counts above a thousandth of the range: more than float32 is off. Of the standard deviation
    what the sums of squares of float32 numbers are off is left out too.

    Args:
        stored: statistics of a feature as the dataset has them.
        exact: `column_statistics` of its values.
    """
    for name in COMPARED:
        if name not in stored:
            continue
        given, wanted = np.asarray(stored[name], np.float64), exact[name]
        if given.size != wanted.size:
            return f"{name} has {given.size} numbers, not {wanted.size}"
        place = _first_wrong(name, given, exact)
        if place is not None:
            return _is_other(name, given, wanted, place)
    return None


def quantile_difference(stored: Mapping[str, np.ndarray], column: np.ndarray) -> str | None:
    """Say which stored quantile of a feature is none, by the share of the numbers below it.

    None where all are what they say. Quantiles of episodes that were averaged are not those of the whole.

    Args:
        stored: statistics of a feature as the dataset has them.
        column: its values `(N, *shape)`, all finite.
    """
    flat = column.reshape(len(column), -1)
    spread = np.ptp(flat.astype(np.float64), axis=0)
    for name, level in QUANTILES.items():
        given = np.asarray(stored.get(name, ()), np.float64).reshape(-1)
        if given.size != flat.shape[1]:
            continue
        below, at_most = (flat < given).mean(axis=0), (flat <= given).mean(axis=0)
        wrong = ~((below <= level + _QUANTILE_SHARE) & (at_most >= level - _QUANTILE_SHARE))
        for place in np.flatnonzero(wrong):
            exact = float(np.quantile(flat[:, place].astype(np.float64), level))
            if not abs(given[place] - exact) <= 1e-3 * spread[place]:
                return (
                    f"{name} is {given[place]:.6g}, below which {100 * below[place]:.3g} % of the numbers "
                    f"lie, not {100 * level:.3g} %; the data says {exact:.6g}"
                )
    return None


def episode_difference(
    stored: Mapping[str, np.ndarray], column: np.ndarray, lengths: np.ndarray, numbers: np.ndarray
) -> str | None:
    """Say which episode's stored statistics of a feature are not those of its data; None where all are.

    Args:
        stored: statistic → its numbers for every episode, `(E, D)`.
        column: the values of the episodes, one after the other, `(N, *shape)`.
        lengths: frames of each episode `(E,)`.
        numbers: what each episode is called, `(E,)`.
    """
    exact = statistics_of_episodes(column, lengths)
    for name in COMPARED:
        if name in stored:
            place = _first_wrong(name, stored[name], exact)
            if place is not None:
                episode = numbers[place // exact[name].shape[1]]
                return f"{_is_other(name, stored[name], exact[name], place)}, in episode {episode}"
    return None


def _first_wrong(name: str, given: np.ndarray, exact: Mapping[str, np.ndarray]) -> int | None:
    """Return where a stored statistic is another than the exact one, counted over all of its numbers."""
    wanted = np.asarray(exact[name], np.float64)
    given = given.reshape(wanted.shape)
    low, high = (np.asarray(exact[end], np.float64) for end in ("min", "max"))
    slack = 0.0 if name == "count" else 1e-3 * (high - low) + 1e-5 * np.abs(wanted)
    wrong = ~(np.abs(given - wanted) <= slack)  # NaN is wrong too
    if name == "std":
        # A mean of squares in float32 less the square of the mean, as some writers have it, is off by this.
        rounding = _ROUNDING * np.maximum(np.abs(low), np.abs(high)) ** 2
        wrong &= ~(np.abs(given**2 - wanted**2) <= rounding)
    places = np.flatnonzero(wrong)
    return int(places[0]) if len(places) else None


def _is_other(name: str, given: np.ndarray, wanted: np.ndarray, place: int) -> str:
    return f"{name} is {given.reshape(-1)[place]:.6g}, the data says {wanted.reshape(-1)[place]:.6g}"
