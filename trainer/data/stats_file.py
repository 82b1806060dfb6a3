"""The statistics of a dataset as a file: a pickle of numpy arrays, read without running any code in it."""

from __future__ import annotations

import io
import pickle
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from trainer.data.errors import DatasetError
from trainer.data.statistics import Stats
from trainer.utils.files import whole_file

# Statistics are a few numbers per feature; what is larger is something else.
_LARGEST = 1 << 26
_PACKAGES = ("numpy.core", "numpy._core")


class _DType:
    """The type of numbers that a pickle names; stands for `numpy.dtype`."""

    def __init__(self, name: Any, *_: Any) -> None:
        if not isinstance(name, str) or not re.fullmatch(r"[<>=|]?[biuf]\d{1,2}", name):
            raise pickle.UnpicklingError(f"it holds {name!r}, which is no type of numbers")
        self.name = name

    def __setstate__(self, state: Any) -> None:
        if state[1] in ("<", ">"):
            self.name = state[1] + self.name.lstrip("<>=|")


class _Array:
    """An array as a pickle rebuilds it; stands for `numpy.ndarray`.

    It takes as much memory as the pickle has bytes for it, whatever shape the pickle asks for.
    """

    value: np.ndarray

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        self.value = _from_buffer(content, dtype, shape, "F" if fortran else "C").value


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _from_buffer(content: Any, dtype: _DType, shape: Any, order: Any = "C", *_: Any) -> _Array:
    array = _Array()
    array.value = np.frombuffer(bytes(content), np.dtype(dtype.name)).reshape(tuple(shape), order=order)
    return array


def _scalar(dtype: _DType, content: Any) -> _Array:
    return _from_buffer(content, dtype, ())


def _encode(text: str, encoding: str) -> bytes:
    """Stands for `_codecs.encode`, with which old pickles write bytes."""
    return text.encode("latin1" if encoding == "latin1" else "ascii")


# What numpy puts into a pickle to rebuild arrays and scalars, under its old and its new module name, and what
# is called in its place.
_PARTS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
} | {
    (f"{package}.{module}", name): part
    for package in _PACKAGES
    for module, name, part in (
        ("multiarray", "_reconstruct", _reconstruct),
        ("multiarray", "scalar", _scalar),
        ("numeric", "_frombuffer", _from_buffer),
    )
}


class _ArraysOnly(pickle._Unpickler):
    """Rebuilds arrays and Python's own containers and numbers; calls nothing that a pickle names.

    Python's own unpickler and not that in C, which takes memory for what a pickle says is to come.
    """

    read: Any
    append: Any
    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def load_bytearray8(self) -> None:
        """Take the bytes that are there; the base class makes room for those that are said to come."""
        size = int.from_bytes(self.read(8), "little")
        content = self.read(size)
        if len(content) < size:
            raise pickle.UnpicklingError("it is cut short")
        self.append(bytearray(content))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PARTS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _PARTS[module, name]


def save_stats(path: Path | str, stats: Mapping[str, Mapping[str, Any]]) -> None:
    """Write statistics, whole or not at all; equal statistics give equal bytes.

    Args:
        path: the file, by convention `dataset_stats.pkl`; its folder is made where it is missing.
        stats: feature → statistic → numbers.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Fresh arrays and interned names: a pickle records which objects are one and the same, and that must
    # not depend on how the statistics came to be.
    plain = {
        sys.intern(str(feature)): {sys.intern(str(name)): np.array(value) for name, value in values.items()}
        for feature, values in stats.items()
    }
    with whole_file(path) as temporary, temporary.open("wb") as file:
        pickle.dump(plain, file, protocol=4)


def load_stats(path: Path | str) -> Stats:
    """Read what `save_stats` wrote; arrays of numbers in dicts are all that it accepts.

    Raises:
        DatasetError: the file is missing, damaged, or holds anything else, code to be run included.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _LARGEST:
            raise pickle.UnpicklingError(f"it has {path.stat().st_size / 1e6:,.0f} MB")
        loaded = _ArraysOnly(io.BytesIO(path.read_bytes())).load()
    except FileNotFoundError:
        raise DatasetError(f"{path}: there is no such statistics file") from None
    except Exception as problem:  # a damaged pickle can fail in any way
        raise DatasetError(f"{path}: this is not a file of dataset statistics: {problem}") from None
    return _checked(loaded, path)


def _checked(loaded: Any, path: Path) -> Stats:
    if not isinstance(loaded, dict):
        raise DatasetError(f"{path}: statistics are a dict of features, this is a {type(loaded).__name__}")
    stats: Stats = {}
    for feature, values in loaded.items():
        if not isinstance(feature, str) or not isinstance(values, dict):
            raise DatasetError(f"{path}: feature {feature!r} has no dict of statistics")
        stats[feature] = {}
        for name, value in values.items():
            array = _numbers(value)
            if not isinstance(name, str) or array is None:
                raise DatasetError(
                    f"{path}: statistic {name!r} of feature {feature!r} is not made of numbers"
                )
            stats[feature][name] = array
    return stats


def _numbers(value: Any) -> np.ndarray | None:
    """Return an array, a number or a list of numbers as an array; None for anything else."""
    if isinstance(value, _Array):
        return getattr(value, "value", None)
    flat = isinstance(value, (list, tuple)) and all(isinstance(one, (int, float)) for one in value)
    array = np.asarray(value) if flat or isinstance(value, (int, float)) else None
    return array if array is not None and array.dtype.kind in "biuf" else None
