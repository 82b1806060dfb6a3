"""The checked casts: numbers to a declared type, pictures to uint8; refused where a value would change."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from trainer.data.errors import DatasetError

OVERSHOOT = 0.1
"""So far, as a share of their range, may colours that are floats lie outside of it: resampling does that."""

_COARSE = 1e-3
"""Rounding to a smaller float is refused where it is more than this, and than this share of the movement."""

_MODES = ("RGB", "L", "1", "P", "CMYK", "YCbCr")
"""Kinds of encoded picture that are colours or grey, without transparency."""


class CastError(DatasetError):
    """A number does not fit the type that is wanted; the text says why, not where.

    Attributes:
        row: the first row whose numbers do not fit.
    """

    def __init__(self, message: str, row: int) -> None:
        super().__init__(message)
        self.row = row


def cast_numbers(values: np.ndarray, dtype: str | np.dtype[Any]) -> np.ndarray:
    """Return numbers as another type, each of them what it was.

    Floats may be rounded to a smaller float as long as what moves in a column survives that. NaN stays NaN.

    Args:
        values: numbers or booleans `(N, …)`.
        dtype: the type that is wanted, numbers or booleans too.

    Raises:
        CastError: a value would become another: a fraction or NaN an integer, a number out of range, an
            integer a float that does not tell it from its neighbour, or a column of large floats a smaller
            one that rounds its movement away.
    """
    wanted = np.dtype(dtype)
    if values.dtype == wanted:
        return values
    if values.dtype.kind not in "biuf" or wanted.kind not in "biuf":
        raise CastError(f"{values.dtype} is not made of numbers that {wanted} can hold", 0)
    with np.errstate(all="ignore"):
        cast = values.astype(wanted)
    if np.can_cast(values.dtype, wanted, "safe") or not values.size:
        return cast
    bad = _changed(values, cast)
    if bad.any():
        place = np.unravel_index(int(np.argmax(bad)), values.shape)
        row = int(place[0]) if place else 0
        raise CastError(f"stored as {values.dtype}, {values[place]!s} does not fit {wanted}", row)
    if wanted.kind == "f" and values.dtype.kind == "f":
        _check_rounding(values, cast)
    return cast


def _changed(values: np.ndarray, cast: np.ndarray) -> np.ndarray:
    """Tell which values the cast has changed."""
    wanted = cast.dtype
    if wanted.kind == "b":
        return (values != 0) & (values != 1)
    if wanted.kind == "f" and values.dtype.kind == "f":
        return np.isfinite(values) & ~np.isfinite(cast)
    if wanted.kind == "f":
        limit = 2 ** (np.finfo(wanted).nmant + 1)
        outside = values > limit
        return outside if values.dtype.kind == "u" else outside | (values < -limit)
    limits = np.iinfo(wanted)
    if values.dtype.kind == "f":
        values = values.astype(np.float64, copy=False)  # of which all limits are
        whole = np.isfinite(values) & (values == np.floor(values))
        # The largest integer may not be a float; the one above it is a power of two.
        return ~(whole & (values >= float(limits.min)) & (values < float(limits.max + 1)))
    own = np.iinfo(values.dtype)
    low, high = max(limits.min, own.min), min(limits.max, own.max)
    return (values < low) | (values > high)


def _check_rounding(values: np.ndarray, cast: np.ndarray) -> None:
    flat = values.reshape(len(values), -1) if values.ndim else values.reshape(1, 1)
    rounded = cast.reshape(flat.shape)
    if not np.nanmax(np.abs(flat), initial=0.0, where=np.isfinite(flat)) * np.finfo(cast.dtype).eps > _COARSE:
        return
    for i in range(flat.shape[1]):
        column = flat[np.isfinite(flat[:, i]), i]
        if not len(column):
            continue
        error = np.abs(column - rounded[np.isfinite(flat[:, i]), i])
        spread = float(column.max() - column.min())
        if error.max() > _COARSE and spread > 0 and error.max() > _COARSE * spread:
            row = int(np.flatnonzero(np.isfinite(flat[:, i]))[int(np.argmax(error))])
            raise CastError(
                f"stored as {values.dtype}, numbers that move by {spread:g} around {column.mean():g} are "
                f"rounded by {error.max():g} in {cast.dtype}",
                row,
            )


@dataclass(frozen=True)
class PictureCast:
    """How the pictures of a feature become uint8: one rule for all of them.

    Attributes:
        scale: what they are multiplied by, 255 where they are colours from 0 to 1.
    """

    scale: float = 1.0

    @classmethod
    def of(cls, episodes: Iterable[tuple[str, float, float]]) -> PictureCast:
        """Find the rule for pictures stored as floats.

        Args:
            episodes: for each part of the feature where it is, its smallest and its largest value.

        Raises:
            DatasetError: the values are neither colours from 0 to 1 nor from 0 to 255, or some parts are the
                one and some the other.
        """
        small: str | None = None
        large: str | None = None
        for where, low, high in episodes:
            if _in_range(low, high, 1.0):
                small = where if high > 0 else small
            elif _in_range(low, high, 255.0) and high > 2:
                large = where
            else:
                raise DatasetError(
                    f"{where}: pictures have values from {low:g} to {high:g}; colours go from 0 to 1 or from "
                    "0 to 255"
                )
        if small and large:
            raise DatasetError(
                f"{small}: the pictures are colours from 0 to 1, those of {large} from 0 to 255; store them "
                "alike"
            )
        return cls(1.0 if large else 255.0)

    def __call__(self, stored: np.ndarray, where: str) -> np.ndarray:
        """Return a picture as uint8 `(H, W, 3)`, whether its channels come last or first.

        Raises:
            DatasetError: it is no colour picture, or its values are no colours.
        """
        if stored.ndim != 3 or 3 not in (stored.shape[0], stored.shape[-1]):
            raise DatasetError(f"{where}: a colour picture is wanted, there is an array {stored.shape}")
        frame = stored if stored.shape[-1] == 3 else np.moveaxis(stored, 0, -1)
        if frame.dtype == np.uint8:
            return np.ascontiguousarray(frame)
        if frame.dtype.kind not in "iuf":
            raise DatasetError(f"{where}: pictures of {frame.dtype} are no colours from 0 to 255")
        if frame.dtype.kind in "iu":
            try:
                return np.ascontiguousarray(cast_numbers(frame, "uint8"))
            except CastError:
                low, high = float(frame.min()), float(frame.max())
                raise DatasetError(
                    f"{where}: a picture of {frame.dtype} has values from {low:g} to {high:g}; colours go "
                    "from 0 to 255"
                ) from None
        values = frame.astype(np.float64) * self.scale
        if not _in_range(float(values.min()), float(values.max()), 255.0):  # NaN is not
            raise DatasetError(
                f"{where}: a picture has values from {frame.min():g} to {frame.max():g}; those of this "
                f"feature go from 0 to {255 / self.scale:g}"
            )
        return np.rint(np.clip(values, 0, 255)).astype(np.uint8)


def _in_range(low: float, high: float, whole: float) -> bool:
    return low >= -OVERSHOOT * whole and high <= (1 + OVERSHOOT) * whole


def decoded_picture(content: bytes) -> np.ndarray:
    """Return an encoded picture (JPEG, PNG, …) as uint8 RGB `(H, W, 3)`; grey becomes three equal channels.

    Raises:
        ValueError: it cannot be decoded, or is not made of 8-bit colours: depth, or transparency that would
            be lost.
    """
    try:
        with Image.open(io.BytesIO(content)) as picture:
            _check_colours(picture)
            return np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as problem:
        raise ValueError(str(problem).replace("<_io.BytesIO object at ", "<picture at ")) from None


def picture_size(content: bytes) -> tuple[int, int]:
    """Return height and width of an encoded picture from its header, which has to be that of colours.

    Raises:
        ValueError: it has no readable header, or is not made of 8-bit colours.
    """
    try:
        with Image.open(io.BytesIO(content)) as picture:
            if picture.mode not in (*_MODES, "RGBA", "LA", "PA"):
                _check_colours(picture)
            return picture.height, picture.width
    except (OSError, SyntaxError, Image.DecompressionBombError) as problem:
        raise ValueError(str(problem).replace("<_io.BytesIO object at ", "<picture at ")) from None


def _check_colours(picture: Image.Image) -> None:
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        if np.asarray(picture.convert("RGBA"))[..., 3].min() < 255:
            raise ValueError("it is partly transparent")
    elif picture.mode not in _MODES:
        raise ValueError(f"it is no picture of 8-bit colours, but of kind {picture.mode}")


def encoded_bytes(stored: Any) -> bytes:
    """Return the bytes of an encoded picture, which files keep as text, as raw bytes or as small numbers.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(stored, bytes):
        return stored
    array = np.asarray(stored)
    if array.ndim == 0 and array.dtype.kind in "SV":
        return array.tobytes()
    if array.ndim == 1 and array.dtype.kind in "iuV" and array.dtype.itemsize == 1:
        return array.tobytes()
    if array.ndim == 1 and array.dtype.kind in "iuf":
        return cast_numbers(array, "uint8").tobytes()
    raise ValueError(f"{array.dtype} {array.shape} is no encoded picture")


def value_range(stored: Any, at_once: int = 64) -> tuple[float, float]:
    """Return the smallest and the largest number of an array `(T, …)` that is read in parts; NaN if any is.

    Args:
        stored: an array, or what gives one for a slice.
        at_once: rows in a part.
    """
    low, high = np.inf, -np.inf
    for begin in range(0, len(stored), at_once):
        part = np.asarray(stored[begin : begin + at_once])
        low, high = np.minimum(low, part.min()), np.maximum(high, part.max())
    return float(low), float(high)


def is_picture(shape: Sequence[int]) -> bool:
    """Tell the shape of a colour picture: three dimensions of which the first or the last is 3."""
    return len(shape) == 3 and 3 in (shape[0], shape[-1]) and min(sorted(shape)[1:]) >= 8
