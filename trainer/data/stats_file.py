"""The statistics of a dataset as a file: a pickle of numpy arrays, read without running any code in it."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.errors import DatasetError
from trainer.data.statistics import Stats
from trainer.utils.files import whole_file

# What numpy puts into a pickle to rebuild arrays and scalars, under its old and its new module name.
_ARRAY_PARTS = {
    (module, name)
    for package in ("numpy._core", "numpy.core")
    for module, name in (
        (f"{package}.multiarray", "_reconstruct"),
        (f"{package}.multiarray", "scalar"),
        (f"{package}.numeric", "_frombuffer"),
    )
} | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}


class _ArraysOnly(pickle.Unpickler):
    """Rebuilds numpy arrays and Python's own containers and numbers; knows no other class or function."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAY_PARTS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


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
        with path.open("rb") as file:
            loaded = _ArraysOnly(file).load()
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
            array = np.asarray(value)
            if not isinstance(name, str) or array.dtype.kind not in "biuf":
                raise DatasetError(
                    f"{path}: statistic {name!r} of feature {feature!r} is not made of numbers"
                )
            stats[feature][name] = array
    return stats
