"""What every foreign format is turned into first: features, and episodes one after the other."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from trainer.data.errors import DatasetError

Columns = dict[str, Any]
"""Feature → array `(T, *shape)`, or for a camera a sequence of uint8 `(H, W, 3)`."""


@dataclass(frozen=True)
class Source:
    """Demonstrations in a foreign format, opened.

    Attributes:
        features: name → shape of one frame and dtype, `video` for cameras.
        count: number of episodes.
        read: returns the columns of an episode by its place.
        fps: frames per second, where the format says it.
        task: what the robot is doing, where the format says it.
        robot_type: the robot, where the format says it.
        notes: sentences about what is not taken over, and why.
    """

    features: Mapping[str, tuple[str, tuple[int, ...]]]
    count: int
    read: Callable[[int], Columns]
    fps: float | None = None
    task: str | None = None
    robot_type: str | None = None
    notes: tuple[str, ...] = field(default=())

    def episodes(self) -> Iterator[Columns]:
        """Yield the columns of each episode."""
        for place in range(self.count):
            yield self.read(place)

    def descriptions(self) -> dict[str, dict[str, Any]]:
        """Return the features as a LeRobot dataset describes them."""
        named = {}
        for name, (dtype, shape) in self.features.items():
            names = ["height", "width", "channels"] if dtype == "video" else None
            named[name] = {"dtype": dtype, "shape": list(shape), "names": names}
        return named


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
            f"reading {what} needs {library}, which is not installed: pip install 'trainer[convert]'"
        ) from None


def is_picture(shape: Sequence[int]) -> bool:
    """Tell the shape of a colour picture: three dimensions of which the first or the last is 3."""
    return len(shape) == 3 and 3 in (shape[0], shape[-1]) and min(sorted(shape)[1:]) >= 8


def picture_size(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return the shape (H, W, 3) of a picture that is stored so, or with the channels first."""
    return (shape[0], shape[1], 3) if shape[-1] == 3 else (shape[1], shape[2], 3)


def as_picture(stored: np.ndarray, scale: float, where: str) -> np.ndarray:
    """Return a picture as uint8 `(H, W, 3)`; floats are multiplied by `scale` and rounded."""
    frame = stored if stored.shape[-1] == 3 else np.moveaxis(stored, 0, -1)
    if frame.dtype == np.uint8:
        return np.ascontiguousarray(frame)
    values = frame.astype(np.float64) * scale
    if not (np.isfinite(values).all() and values.min() >= -0.5 and values.max() <= 255.5):
        raise DatasetError(f"{where}: a picture has values that are not colours from 0 to 255 or 0 to 1")
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)


def float_scale(stored: np.ndarray) -> float:
    """Return by what pictures stored as floats are multiplied: those of 0 to 1 by 255, others by 1."""
    return 255.0 if stored.dtype.kind == "f" and float(stored.max()) <= 1.0 else 1.0


def decoded_picture(content: bytes, where: str) -> np.ndarray:
    """Return an encoded picture (JPEG, PNG) as uint8 RGB `(H, W, 3)`; zeros after its end do no harm."""
    try:
        with Image.open(io.BytesIO(content)) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as problem:
        raise DatasetError(f"{where}: a picture cannot be read: {problem}") from None


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
