"""What a robot measures, held against the columns of the dataset: the same numbers in the same types."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainer.data.columns import Column
from trainer.utils.errors import UsageError
from trainer.utils.text import first_line


def measured(column: Column, value: object, robots: int | None) -> np.ndarray:
    """Return a measurement as the dataset would have it.

    Args:
        column: what it is.
        value: numbers of the column's shape; pictures `(H, W, 3)` or `(3, H, W)`, uint8 or floats in [0, 1].
        robots: N, for a leading dimension of N; None for one robot without such a dimension.

    Returns:
        `(N or 1, *shape)` in the column's type; pictures may be float32.

    Raises:
        UsageError: it is no array, its shape is another, a number is NaN or infinite, or it is none that the
            column can hold.
    """
    array = _array(column, value)
    lead = () if robots is None else (robots,)
    expected = (*lead, *column.shape)
    shapes = [expected]
    if column.is_picture:
        channels_last = (*lead, *column.shape[1:], column.shape[0])
        shapes = [channels_last, expected]
        if array.shape == channels_last and array.shape != expected:
            array = np.moveaxis(array, -1, -3)
    if array.shape != expected:
        raise UsageError(
            f"the observation '{column.name}' has shape {array.shape}; the policy needs "
            f"{' or '.join(str(shape) for shape in shapes)}"
        )
    if array.dtype.kind not in "biuf":
        raise UsageError(
            f"the observation '{column.name}' holds {array.dtype}; the policy needs {column.dtype} numbers"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UsageError(
            f"the observation '{column.name}' has NaN or an infinite number; the policy needs "
            f"{column.dtype} numbers of shape {expected}"
        )
    array = _picture(column, array) if column.is_picture else _numbers(column, array)
    return array if robots is not None else array[None]


def _array(column: Column, value: object) -> np.ndarray:
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as problem:  # lists of unequal length, a tensor on a GPU
        reason = first_line(problem)
        raise UsageError(
            f"the observation '{column.name}' is no array of numbers ({reason}); the policy needs "
            f"{column.dtype} numbers of shape {column.shape}"
        ) from None


def _picture(column: Column, array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype.kind == "f" and array.min() >= 0 and array.max() <= 1:
        return np.ascontiguousarray(array, np.float32)
    raise UsageError(
        f"the observation '{column.name}' holds {array.dtype} from {array.min():g} to {array.max():g}; the "
        "policy needs pictures of uint8 from 0 to 255, or of floats from 0 to 1"
    )


def _numbers(column: Column, array: np.ndarray) -> np.ndarray:
    if array.dtype.name == column.dtype:
        return array
    with np.errstate(all="ignore"):
        cast = array.astype(column.dtype)
    # A float may be rounded to a shorter one; an integer or a flag is that very number or none.
    sound = np.isfinite(cast).all() if cast.dtype.kind == "f" else (cast == array).all()
    if not sound:
        raise UsageError(
            f"the observation '{column.name}' has {array.dtype} numbers from {array.min():g} to "
            f"{array.max():g}, which {column.dtype} cannot hold; the dataset has {column.dtype}"
        )
    return cast


def window(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Return measurements `(N, *shape)` of several times as one array `(N, T, *shape)`, all of one type."""
    if len({frame.dtype for frame in frames}) > 1:  # pictures, some of them scaled already
        scale = np.float32(255)
        frames = [frame / scale if frame.dtype == np.uint8 else frame for frame in frames]
    return np.stack(frames, axis=1)
