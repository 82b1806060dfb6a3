"""HDF5 files of demonstrations: opening them, and the arrays in them by their paths."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.data.conversion.source import needed
from trainer.data.errors import DatasetError


def opened(path: Path) -> Any:
    """Open a file.

    Raises:
        DatasetError: h5py is not installed, or the file is damaged.
    """
    h5py = needed("h5py", "HDF5 files")
    try:
        return h5py.File(path, "r")
    except OSError as problem:
        raise DatasetError(f"{path}: this cannot be read as HDF5: {problem}") from None


def is_group(item: Any) -> bool:
    """Tell a group from an array."""
    return hasattr(item, "keys")


def arrays(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path, below a group, of every array in it at any depth, and the array."""
    for name, item in group.items():
        if is_group(item):
            yield from arrays(item, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", item


def array(group: Any, key: str, where: str) -> Any:
    """Return an array that has a row for every frame.

    Raises:
        DatasetError: there is none.
    """
    try:
        found = group.get(key)
    except (KeyError, OSError, RuntimeError) as problem:
        raise DatasetError(f"{where}: {key} is damaged and cannot be read: {problem}") from None
    if found is None:
        raise DatasetError(f"{where}: there is no {key} in it")
    if is_group(found):
        raise DatasetError(f"{where}: {key} is a group of arrays, not an array")
    if not found.shape:
        raise DatasetError(f"{where}: {key} is a single value, not one for every frame")
    return found
