"""An episode that a robot has played, and what it must be like to be trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from model_constructor import did_you_mean

from trainer.data.casts import CastError, cast_numbers
from trainer.data.columns import Column
from trainer.online.description import Description
from trainer.utils.errors import UsageError

AUTO, EXPERT, HUMAN = 0, 1, 2
"""Who moved the robot: the policy, a scripted expert, a person."""

MODES = {AUTO: "auto", EXPERT: "expert", HUMAN: "human"}


class EpisodeError(UsageError):
    """An episode cannot be trained on; one sentence says why, and it is stored nowhere."""


@dataclass(frozen=True)
class Episode:
    """T control steps of one robot, from a start to an end.

    Attributes:
        columns: feature → `(T, *shape)`, called as in a batch and raw as the dataset has it; pictures uint8
            `(T, 3, H, W)` or `(T, H, W, 3)`. `action` is what is to be learnt: the label where there is one,
            else what was executed.
        control_mode: int8 `(T,)`, who moved the robot: `AUTO`, `EXPERT` or `HUMAN`.
        labelled: bool `(T,)`, whether `action` was given by an expert or a person.
        policy_version: int64 `(T,)`, version of the weights that were asked; 0 before the first.
        task: what the robot was to do, in words.
        success: whether it was done.
        source: name of the worker or robot.
        start_seed: where the episode started, if a simulator was told.
    """

    columns: Mapping[str, np.ndarray]
    control_mode: np.ndarray
    labelled: np.ndarray
    policy_version: np.ndarray
    task: str
    success: bool
    source: str
    start_seed: int | None = None

    def __len__(self) -> int:
        """Return T."""
        return len(self.control_mode)

    @property
    def version(self) -> int:
        """The newest version of the weights that played in it."""
        return int(self.policy_version.max(initial=0))

    @property
    def labels(self) -> int:
        """Number of actions that an expert or a person gave."""
        return int(self.labelled.sum())


_OWN = tuple(field.name for field in fields(Episode) if field.name != "columns")


def as_episode(given: Episode | Mapping[str, Any], description: Description) -> Episode:
    """Return an episode from columns, with what is left out as it mostly is.

    Args:
        given: columns, beside which `control_mode`, `labelled`, `policy_version`, `task`, `success`, `source`
            and `start_seed` may stand. Without them the policy has moved the robot, nothing is labelled but
            what others than the policy did, the version is 0, the task that of the dataset, and it was done.
        description: of the samples.

    Raises:
        EpisodeError: there are no columns.
    """
    if isinstance(given, Episode):
        return given
    columns = {key: value for key, value in given.items() if key not in _OWN}
    own = {key: given[key] for key in _OWN if key in given}
    if not columns:
        raise EpisodeError("an episode has no columns; give an array (T, …) for each feature of the dataset")
    length = _rows(next(iter(columns.values())))
    mode = np.asarray(own.pop("control_mode", np.full(length, AUTO)))
    usual = {
        "labelled": mode != AUTO,
        "policy_version": np.zeros(length, np.int64),
        "task": next(iter(description.tasks), ""),
        "success": True,
        "source": "",
    }
    return Episode(columns, mode, **(usual | own))


def check_episode(episode: Episode, facts: Description | Mapping[str, Any]) -> Episode:
    """Return an episode with every column in the type and shape that a sample needs.

    Args:
        episode: what was played.
        facts: the dataset's, or what was made of them.

    Raises:
        EpisodeError: a column is missing or unknown, has another shape, does not fit its type, holds NaN or
            an infinite number; the lengths disagree; or it is shorter than the longest window.
    """
    described = facts if isinstance(facts, Description) else Description.of(facts)
    where = f"the episode of '{episode.source}'" if episode.source else "the episode"
    try:
        return _checked(episode, described)
    except ValueError as problem:
        raise EpisodeError(f"{where} {problem}; it was not stored") from None


def _checked(episode: Episode, described: Description) -> Episode:
    wanted = {column.name: column for column in described.stored}
    for name in episode.columns:
        if name not in wanted:
            raise ValueError(f"has '{name}', which the dataset has not; {did_you_mean(name, wanted)}")
    for name in wanted:
        if name not in episode.columns:
            raise ValueError(f"lacks '{name}'")
    columns = {name: _column(episode.columns[name], column) for name, column in wanted.items()}
    own: dict[str, Any] = {
        "control_mode": _numbers("control_mode", np.asarray(episode.control_mode), "int8", ()),
        "labelled": _numbers("labelled", np.asarray(episode.labelled), "bool", ()),
        "policy_version": _numbers("policy_version", np.asarray(episode.policy_version), "int64", ()),
    }
    lengths = {name: len(column) for name, column in (columns | own).items()}
    first, *others = lengths
    for name in others:
        if lengths[name] != lengths[first]:
            raise ValueError(f"has {lengths[first]} steps of '{first}' and {lengths[name]} of '{name}'")
    modes = own["control_mode"]
    if not np.isin(modes, list(MODES)).all():
        known = ", ".join(f"{number} ({name})" for number, name in MODES.items())
        step = int(np.flatnonzero(~np.isin(modes, list(MODES)))[0])
        raise ValueError(f"has the control_mode {modes[step]} at step {step}; it is one of {known}")
    if (own["policy_version"] < 0).any():
        raise ValueError("has a policy_version below 0")
    if len(modes) < described.longest:
        raise ValueError(
            f"has {len(modes)} steps, fewer than the {described.longest} of the longest window, that of "
            f"'{described.longest_window}'"
        )
    return replace(
        episode,
        columns=columns,
        **own,
        task=str(episode.task),
        success=bool(episode.success),
        source=str(episode.source),
        start_seed=None if episode.start_seed is None else int(episode.start_seed),
    )


def _rows(given: Any) -> int:
    return len(given) if hasattr(given, "__len__") else 0


def _column(given: Any, column: Column) -> np.ndarray:
    try:
        array = np.asarray(given)
    except ValueError:
        raise ValueError(f"has '{column.name}' with rows of different lengths") from None
    if column.is_picture:
        return _pictures(column, array)
    return _numbers(column.name, array, column.dtype, column.shape)


def _numbers(name: str, array: np.ndarray, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    if array.ndim == 0 or array.shape[1:] != shape:
        raise ValueError(f"has '{name}' of shape {array.shape}; it should be {_shape(shape)}")
    try:
        cast = cast_numbers(array, dtype)
    except CastError as problem:
        raise ValueError(f"has in '{name}', at step {problem.row}, what does not fit: {problem}") from None
    if cast.dtype.kind == "f" and not np.isfinite(cast).all():
        bad = ~np.isfinite(cast).reshape(len(cast), -1).all(axis=1)
        raise ValueError(f"has NaN or an infinite number in '{name}' at step {int(np.flatnonzero(bad)[0])}")
    return np.ascontiguousarray(cast)


def _pictures(column: Column, array: np.ndarray) -> np.ndarray:
    channels_last = (*column.shape[1:], column.shape[0])
    if array.ndim == 4 and array.shape[1:] == channels_last and array.shape[1:] != column.shape:
        array = np.moveaxis(array, -1, 1)
    if array.ndim != 4 or array.shape[1:] != column.shape:
        raise ValueError(
            f"has pictures '{column.name}' of shape {array.shape}; they should be {_shape(column.shape)} or "
            f"{_shape(channels_last)}"
        )
    if array.dtype != np.uint8:
        raise ValueError(f"has pictures '{column.name}' of {array.dtype}; they should be uint8, 0 to 255")
    return np.ascontiguousarray(array)


def _shape(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(["T", *map(str, shape)]) + ("," if not shape else "") + ")"
