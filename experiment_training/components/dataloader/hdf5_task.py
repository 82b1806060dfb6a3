"""The task JSON of HDF5 episodes: which fields of a file are the observation, the action, the cameras."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.errors import DatasetError

OBSERVATION = "/observation/"
ACTION = "/action/"
IMAGES = "/observation/images/"

_NEEDED = (
    "robot_id",
    "task_name",
    "data_collection_method",
    "data_collector",
    "HZ",
    "compression",
    "episode_len",
    "image_resize",
    "data_dict",
)
_WIDTHS = {"pose.position": 3, "pose.orientation": 4, "data": 1}
"""Kinds of field that are told by one word, and how many numbers each is."""


@dataclass(frozen=True)
class Field:
    """One array in an episode's file that is a part of the observation or the action.

    Attributes:
        path: where it is in the file.
        span: the columns that are taken, first and behind the last; None for all.
        width: how many numbers it gives; None where the file decides.
    """

    path: str
    span: tuple[int, int] | None = None
    width: int | None = None

    def take(self, stored: np.ndarray, where: str) -> np.ndarray:
        """Return its columns of what a file holds, `(T, width)`.

        A span is cut out of wider arrays; an array that is as wide as the span has been cut already.

        Raises:
            DatasetError: the array does not have these columns.
        """
        values = stored.reshape(len(stored), int(np.prod(stored.shape[1:], dtype=np.int64)))
        if self.span is not None and values.shape[1] != self.span[1] - self.span[0]:
            if values.shape[1] < self.span[1]:
                raise DatasetError(
                    f"{where}: {self.path} has {values.shape[1]} columns, the task takes {self.span[0]} to "
                    f"{self.span[1]}"
                )
            values = values[:, self.span[0] : self.span[1]]
        if self.width is not None and values.shape[1] != self.width:
            raise DatasetError(
                f"{where}: {self.path} has {values.shape[1]} columns, the task says {self.width}"
            )
        return values


@dataclass(frozen=True)
class TaskLayout:
    """What the JSON of a task says of its episodes.

    Attributes:
        name: the task, in words.
        robot: the robot that was recorded.
        rate: frames per second.
        observation: the fields of the observation vector, in its order.
        action: those of the action vector.
        cameras: name → path of its pictures in a file.
    """

    name: str
    robot: str
    rate: float
    observation: tuple[Field, ...]
    action: tuple[Field, ...]
    cameras: dict[str, str]


def read_task(path: Path) -> TaskLayout:
    """Read the JSON of a task.

    The observation is every field below `/observation/` but the pictures, the action every field below
    `/action/`, in the order of `topics`, where there are some, else of `data_dict`. Cameras are named by the
    last part of their path.

    Raises:
        DatasetError: the file is missing, is no JSON, lacks an entry, or names a field in a way that is not
            known.
    """
    if not path.is_file():
        raise DatasetError(f"{path}: the file is missing")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as problem:
        raise DatasetError(f"{path}: this is not JSON: {problem}") from None
    if not isinstance(raw, dict):
        raise DatasetError(f"{path}: a JSON object is expected, this is a {type(raw).__name__}")
    missing = [key for key in _NEEDED if key not in raw]
    if missing:
        raise DatasetError(f"{path}: the entry '{missing[0]}' is missing")
    if not isinstance(raw["data_dict"], dict):
        raise DatasetError(f"{path}: data_dict must be an object, it is a {type(raw['data_dict']).__name__}")
    rate = raw["HZ"]
    if not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 < rate < math.inf:
        raise DatasetError(f"{path}: HZ must be a number above 0, it is {rate!r}")
    described = raw["topics"] if raw.get("topics") else raw["data_dict"]
    kinds: dict[str, Any] = {}
    for key, kind in _entries(described):
        if key in kinds:
            raise DatasetError(f"{path}: the field {key} is named twice")
        kinds[key] = kind
    found = {key: _field(path, key, kind) for key, kind in kinds.items() if not key.startswith(IMAGES)}
    observation = tuple(field for key, field in found.items() if key.startswith(OBSERVATION))
    action = tuple(field for key, field in found.items() if key.startswith(ACTION))
    for what, fields in ((OBSERVATION, observation), (ACTION, action)):
        if not fields:
            raise DatasetError(f"{path}: no field begins with {what}")
    pictures = [key for key in raw["data_dict"] if key.startswith(IMAGES)]
    cameras = {key.rsplit("/", 1)[-1]: key.lstrip("/") for key in pictures}
    if len(cameras) < len(pictures):
        raise DatasetError(f"{path}: two cameras have the same name, the last part of their paths")
    return TaskLayout(str(raw["task_name"]), str(raw["robot_id"]), float(rate), observation, action, cameras)


def _entries(described: Any) -> Iterator[tuple[str, Any]]:
    """Yield the fields and their kinds, however they are nested in topics, in the order of the file."""
    if isinstance(described, Mapping):
        for key, value in described.items():
            if key.startswith((OBSERVATION, ACTION)):
                yield key, value
            else:
                yield from _entries(value)
    elif isinstance(described, list):
        for item in described:
            yield from _entries(item)


def _field(path: Path, key: str, kind: Any) -> Field:
    where = key.lstrip("/")
    if isinstance(kind, str) and kind in _WIDTHS:
        return Field(where, width=_WIDTHS[kind])
    if isinstance(kind, Mapping) and "slice" in kind:
        span = kind["slice"]
        whole = isinstance(span, list) and len(span) == 2 and all(type(n) is int for n in span)
        if not whole or not 0 <= span[0] < span[1]:
            raise DatasetError(f"{path}: the slice of {key} must be [first, behind the last], it is {span!r}")
        return Field(where, span=(span[0], span[1]), width=span[1] - span[0])
    if kind is None or (isinstance(kind, Mapping) and not isinstance(kind.get("attr"), str)):
        return Field(where)
    attribute = kind["attr"] if isinstance(kind, Mapping) else kind
    if isinstance(attribute, str) and attribute in _WIDTHS:
        return Field(where, width=_WIDTHS[attribute])
    known = ", ".join(_WIDTHS)
    raise DatasetError(f"{path}: {key} is {kind!r}, which is neither a slice nor one of {known}")
