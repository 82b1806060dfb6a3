"""The checked casts: every number and colour stays what it is, or is refused with the reason."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from trainer.data.casts import CastError, PictureCast, cast_numbers, decoded_picture, encoded_bytes
from trainer.data.errors import DatasetError

NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("values", "dtype", "wanted"),
    [
        (np.array([1.0, -3.0]), "int8", [1, -3]),
        (np.array([0, 1]), "bool", [False, True]),
        (np.array([True, False]), "float32", [1, 0]),
        (np.array([2**24, -(2**24)]), "float32", [2**24, -(2**24)]),
        (np.array([2**63 - 1], np.uint64), "int64", [2**63 - 1]),
        (np.array([0.1, NAN, INFINITE]), "float32", np.array([0.1, NAN, INFINITE], np.float32)),
        (np.array([[500000.25, 500010.5]]), "float32", [[500000.25, 500010.5]]),
        (np.zeros((0, 2)), "int64", np.zeros((0, 2))),
    ],
)
def test_numbers_that_stay_what_they_are(values, dtype, wanted):
    cast = cast_numbers(values, dtype)
    assert cast.dtype == dtype
    np.testing.assert_array_equal(cast, wanted)


@pytest.mark.parametrize(
    ("values", "dtype", "text", "row"),
    [
        (np.array([1.0, 0.5]), "int64", "stored as float64, 0.5 does not fit int64", 1),
        (np.array([1.0, NAN]), "int64", "nan does not fit int64", 1),
        (np.array([-INFINITE], np.float16), "int32", "-inf does not fit int32", 0),
        (np.array([2.0**63]), "int64", "does not fit int64", 0),
        (np.array([[0.0], [0.7]]), "bool", "0.7 does not fit bool", 1),
        (np.array([2, 1]), "bool", "2 does not fit bool", 0),
        (np.array([255, 256]), "uint8", "256 does not fit uint8", 1),
        (np.array([-1]), "uint64", "-1 does not fit uint64", 0),
        (np.array([2**63], np.uint64), "int64", "does not fit int64", 0),
        (np.array([0, 2**24 + 1]), "float32", "16777217 does not fit float32", 1),
        (np.array([1e300]), "float32", "does not fit float32", 0),
        (np.array([70000.0], np.float32), "float16", "does not fit float16", 0),
        (np.array([1.7e9 + 0.1 * i for i in range(9)]), "float32", "are rounded by", None),
        (np.array(["x"]), "float32", "is not made of numbers", 0),
    ],
)
def test_numbers_that_would_become_others(values, dtype, text, row):
    with pytest.raises(CastError, match=text) as caught:
        cast_numbers(values, dtype)
    assert row is None or caught.value.row == row


@pytest.mark.parametrize(
    "stored", ["float16", "float32", "float64", "int8", "uint8", "int32", "int64", "uint64"]
)
@pytest.mark.parametrize(
    "dtype", ["float16", "float32", "float64", "bool", "int8", "uint8", "int32", "uint64"]
)
def test_whatever_passes_is_equal_in_exact_arithmetic(stored, dtype):
    rng = np.random.default_rng(0)
    for size in (1, 3, 2**9, 2**20, 2**31, 2**60):
        values = np.floor(rng.uniform(-size, size, 4))
        if np.dtype(stored).kind != "f":
            limits = np.iinfo(stored)
            values = np.array([min(max(int(v), limits.min), limits.max) for v in values.tolist()], stored)
        with np.errstate(over="ignore"):
            values = values.astype(stored)
        try:
            cast = cast_numbers(values, dtype)
        except CastError:
            continue
        if not (np.dtype(stored).kind == np.dtype(dtype).kind == "f"):
            assert [int(v) for v in cast.tolist()] == [int(v) for v in values.tolist()]


def pictures(low, high):
    return np.linspace(low, high, 2 * 8 * 8 * 3).reshape(2, 8, 8, 3).astype(np.float32)


def test_pictures_have_one_scale_and_are_clipped():
    cast = PictureCast.of([("a", 0.0, 1.0005), ("b", -0.02, 0.3), ("c", 0.0, 0.0)])
    assert cast.scale == 255
    np.testing.assert_array_equal(cast(np.full((8, 8, 3), 0.5, np.float32), "x"), 128)
    assert cast(pictures(-0.05, 1.05)[1], "x").max() == 255
    # The channels may come first, and whole numbers are colours already.
    assert cast(np.full((3, 8, 9), 7, np.int64), "x").shape == (8, 9, 3)
    assert PictureCast.of([("a", 0.0, 250.0), ("b", 0.0, 0.0)]).scale == 1


@pytest.mark.parametrize(
    ("ranges", "text"),
    [
        ([("a", -1.0, 1.0)], "a: pictures have values from -1 to 1; colours go from 0 to 1 or"),
        ([("a", 0.0, 40000.0)], "values from 0 to 40000"),
        ([("a", 0.0, NAN)], "values from 0 to nan"),
        ([("a", 0.0, 0.9), ("b", 0.0, 200.0)], "a: .* from 0 to 1, those of b from 0 to 255"),
    ],
)
def test_floats_that_are_no_colours(ranges, text):
    with pytest.raises(DatasetError, match=text):
        PictureCast.of(ranges)


@pytest.mark.parametrize(
    ("picture", "text"),
    [
        (np.full((8, 8, 3), 300, np.uint16), "values from 300 to 300"),
        (np.full((8, 8, 3), -1, np.int64), "values from -1"),
        (np.full((8, 8, 3), 1.7, np.float32), "those of this feature go from 0 to 1"),
        (np.ones((8, 8, 3), bool), "pictures of bool"),
        (np.zeros((8, 8), np.uint8), r"an array \(8, 8\)"),
    ],
)
def test_pictures_that_are_none(picture, text):
    with pytest.raises(DatasetError, match="here: .*" + text):
        PictureCast(255.0)(picture, "here")


def encoded(picture, **options):
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_encoded_pictures():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(pixels))
    np.testing.assert_array_equal(decoded_picture(content), pixels)
    opaque = np.dstack([pixels, np.full((6, 7), 255, np.uint8)])
    np.testing.assert_array_equal(decoded_picture(encoded(Image.fromarray(opaque))), pixels)
    as_bytes = np.frombuffer(content, np.uint8)
    for stored in (content, as_bytes, as_bytes.view(np.int8), as_bytes.astype(np.int64)):
        assert encoded_bytes(stored) == content
    for wrong, text in (
        (encoded(Image.fromarray(np.full((6, 7), 40000, np.uint16))), "no picture of 8-bit colours"),
        (encoded(Image.fromarray(opaque // 2)), "partly transparent"),
        (content[:40], "."),
        (b"no", "cannot identify"),
    ):
        with pytest.raises(ValueError, match=text):
            decoded_picture(wrong)
