"""What every foreign format is turned into first: features, and episodes one after the other."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from trainer.data.casts import (
    CastError,
    PictureCast,
    cast_numbers,
    decoded_picture,
    encoded_bytes,
    is_picture,
    value_range,
)
from trainer.data.errors import DatasetError
from trainer.utils.text import first_line

Columns = dict[str, Any]
"""Feature → array `(T, *shape)`, or for a camera a sequence of uint8 `(H, W, 3)`."""


@dataclass(frozen=True)
class Taken:
    """A feature of the dataset that is made, and what it is made from.

    Attributes:
        name: the feature.
        dtype: its type, `video` for a camera.
        shape: of one frame.
        keys: arrays of the source; the rows of several are joined to one vector.
        names: of its numbers, where the source has them.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    keys: tuple[str, ...]
    names: tuple[str, ...] | None = None

    def description(self) -> dict[str, Any]:
        """Return it as a LeRobot dataset describes it."""
        names = ["height", "width", "channels"] if self.dtype == "video" else self.names
        return {
            "dtype": self.dtype,
            "shape": list(self.shape),
            "names": None if names is None else list(names),
        }


@dataclass(frozen=True)
class Source:
    """Demonstrations in a foreign format, opened.

    Attributes:
        features: what is taken over.
        count: number of episodes.
        load: returns the array `(T, …)` of a key in an episode, told by its place; slices of it are read.
        where: says where an episode is: the file, and which demonstration in it.
        close: closes what is open; nothing is loaded after it.
        fps: frames per second, where the format says it.
        task: what the robot is doing, where the format says it.
        robot_type: the robot, where the format says it.
        splits: places of the episodes of named parts, where the format has such.
        notes: sentences about what is not taken over, and why.
    """

    features: tuple[Taken, ...]
    count: int
    load: Callable[[int, str], Any]
    where: Callable[[int], str]
    close: Callable[[], None]
    fps: float | None = None
    task: str | None = None
    robot_type: str | None = None
    splits: Mapping[str, list[int]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def episodes(self, names: Collection[str]) -> Iterator[Columns]:
        """Yield the columns of each episode; of a feature that is not named nothing is read.

        Raises:
            DatasetError: an episode lacks an array, its arrays differ in length, or one of them has another
                shape than in the first episode or values that do not fit.
        """
        taken = [feature for feature in self.features if feature.name in names]
        casts = {f.name: PictureCast.of(self._ranges(f.keys[0])) for f in taken if f.dtype == "video"}
        for place in range(self.count):
            where = self.where(place)
            stored = {key: self.load(place, key) for feature in taken for key in feature.keys}
            lengths = {key: len(array) for key, array in stored.items()}
            if len(set(lengths.values())) > 1:
                said = ", ".join(f"{key} has {length}" for key, length in lengths.items())
                raise DatasetError(f"{where}: the numbers of frames disagree: {said}")
            if 0 in lengths.values():
                raise DatasetError(f"{where}: the episode is empty")
            yield {
                feature.name: _frames(feature, stored[feature.keys[0]], casts[feature.name], where)
                if feature.dtype == "video"
                else _numbers(feature, stored, where)
                for feature in taken
            }

    def _ranges(self, key: str) -> Iterator[tuple[str, float, float]]:
        """Yield the range of values of each episode whose pictures are floats."""
        for place in range(self.count):
            stored = self.load(place, key)
            if stored.dtype.kind == "f" and is_picture(stored.shape[1:]) and len(stored):
                where = f"{self.where(place)}: {key}"
                yield where, *_read(partial(value_range, stored), where)


def _numbers(feature: Taken, stored: Mapping[str, Any], where: str) -> np.ndarray:
    parts = []
    for key in feature.keys:
        values = _read(partial(_rows, stored[key]), f"{where}: {key}")
        joined = len(feature.keys) > 1
        if not joined and column_shape(values.shape) != feature.shape:
            raise DatasetError(
                f"{where}: {key} has frames of shape {list(column_shape(values.shape))}, in the first "
                f"episode {list(feature.shape)}"
            )
        try:
            cast = cast_numbers(values, feature.dtype)
        except CastError as problem:
            raise DatasetError(f"{where}: {key}: {problem}, in frame {problem.row}") from None
        parts.append(cast.reshape(len(cast), -1) if joined else cast.reshape(-1, *feature.shape))
    whole = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    if whole.shape[1:] != feature.shape:
        raise DatasetError(
            f"{where}: {', '.join(feature.keys)} are {whole.shape[1]} numbers, in the first episode "
            f"{feature.shape[0]}"
        )
    return whole


def _rows(stored: Any) -> np.ndarray:
    return np.asarray(stored[:])


def _frames(feature: Taken, stored: Any, cast: PictureCast, where: str) -> Frames:
    key = feature.keys[0]

    def frame(i: int) -> np.ndarray:
        picture = picture_at(stored, i, cast, f"{where}: frame {i} of {key}")
        if picture.shape != feature.shape:
            raise DatasetError(
                f"{where}: frame {i} of {key} is {picture.shape[0]} × {picture.shape[1]} pixels, in the "
                f"first episode {feature.shape[0]} × {feature.shape[1]}"
            )
        return picture

    return Frames(len(stored), frame)


def picture_at(stored: Any, i: int, cast: PictureCast, where: str) -> np.ndarray:
    """Return the i-th picture of an array of pixels or of encoded pictures, uint8 `(H, W, 3)`.

    Raises:
        DatasetError: it cannot be read, or is no colour picture.
    """
    content = _read(lambda: stored[i], where)
    if len(stored.shape) > 2:
        return cast(np.asarray(content), where)
    try:
        return decoded_picture(encoded_bytes(content))
    except ValueError as problem:
        raise DatasetError(f"{where} cannot be read: {problem}") from None


def _read(read: Callable[[], Any], where: str) -> Any:
    try:
        return read()
    except (OSError, RuntimeError, TypeError, ValueError) as problem:
        reason = first_line(problem)
        raise DatasetError(f"{where} cannot be read: {reason}") from None


class Frames(Sequence[np.ndarray]):
    """The frames of a camera in an episode, one of which is read at a time."""

    def __init__(self, length: int, read: Callable[[int], np.ndarray]) -> None:
        self._length = length
        self._read = read

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, place: Any) -> Any:
        if not isinstance(place, int | np.integer):
            return [self[i] for i in range(*place.indices(self._length))]
        if not 0 <= place < self._length:
            raise IndexError(place)
        return self._read(int(place))


def needed(library: str, what: str) -> Any:
    """Import a library that only conversion needs.

    Raises:
        DatasetError: it is not installed.
    """
    try:
        return importlib.import_module(library)
    except ImportError:
        raise DatasetError(
            f"reading {what} needs {library}, which is not installed: pip install 'trainer-il[convert]'"
        ) from None


def picture_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return the shape (H, W, 3) of a picture that is stored so, or with the channels first."""
    return (shape[0], shape[1], 3) if shape[-1] == 3 else (shape[1], shape[2], 3)


def is_numbers(array: Any) -> bool:
    """Tell whether an array has a number, or several, for every frame."""
    return array.dtype.kind in "biuf" and len(array.shape) > 0 and 0 not in array.shape[1:]


def number_type(dtype: np.dtype[Any], where: str) -> str:
    """Return the type in which numbers are taken over: theirs, but float32 for floats of any size.

    Raises:
        DatasetError: they are no numbers.
    """
    if dtype.kind == "f":
        return "float32"
    if dtype.kind not in "biu":
        raise DatasetError(f"{where} holds {dtype}, not numbers")
    return str(dtype)


def column_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of one frame of a column `(T, …)`; a plain number becomes one of shape (1,)."""
    return tuple(int(size) for size in shape[1:]) or (1,)


def without_clashes(features: Iterable[Taken], where: str) -> tuple[Taken, ...]:
    """Return features none of which has the name of another.

    Raises:
        DatasetError: two arrays would become one feature.
    """
    found: dict[str, Taken] = {}
    for feature in features:
        other = found.setdefault(feature.name, feature)
        if other is not feature:
            raise DatasetError(
                f"{where}: both {', '.join(other.keys)} and {', '.join(feature.keys)} would become "
                f"'{feature.name}'; rename one of them"
            )
    return tuple(found.values())
