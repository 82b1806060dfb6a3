"""Parquet columns as contiguous numpy arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainer.data.casts import CastError, cast_numbers
from trainer.data.errors import DatasetError
from trainer.data.lerobot.info import Feature
from trainer.utils.text import first_line


def column_names(path: Path) -> list[str]:
    """Return the names of the columns of a parquet file that `read_table` reads; none where it cannot."""
    try:
        return list(pq.read_schema(path).names)
    except (pa.ArrowException, OSError):
        return []


def read_table(path: Path, columns: Sequence[str] | None = None, without: str | None = None) -> pa.Table:
    """Read a parquet file.

    Args:
        path: the file.
        columns: what to read; all by default.
        without: columns whose names begin so are not read.

    Raises:
        DatasetError: the file is missing, truncated or damaged, or lacks a column.
    """
    if not path.is_file():
        raise DatasetError(f"{path}: the file is missing")
    try:
        with pq.ParquetFile(path) as file:
            present = file.schema_arrow.names
            wanted = present if columns is None else list(columns)
            for name in wanted:
                if name not in present:
                    raise DatasetError(f"{path}: the column '{name}' is missing")
            if without is not None:
                wanted = [name for name in wanted if not name.startswith(without)]
            return file.read(columns=wanted)
    except (pa.ArrowException, OSError) as problem:
        reason = first_line(problem)
        raise DatasetError(
            f"{path}: the file is truncated or damaged and cannot be read as parquet: {reason}"
        ) from None


def to_numpy(
    column: pa.ChunkedArray, feature: Feature, path: Path, place: Callable[[int], str] | None = None
) -> np.ndarray:
    """Return a column as an array `(rows, *feature.column_shape)` of the feature's type.

    Plain numbers, lists of fixed or variable length, nested to any depth, and the extension types that
    array features are stored as are all read; a list must have the shape that the feature promises, be flat,
    or leave out dimensions of size 1. Numbers of another type are taken where each stays what it is.

    Args:
        column: the column.
        feature: what it should be.
        path: the file, for what is said about it.
        place: says where a row is, in words; by default its place in the column.

    Raises:
        DatasetError: a value is missing, the shape or type is not that of the feature, or a number does not
            fit the type.
    """
    where = place or (lambda row: f"row {row}")
    rows = len(column)
    array, shape = _unnested(_whole(column), feature, path, where)
    size = int(np.prod(shape, dtype=np.int64))
    if array.null_count:
        row = _first_null(array) // max(size, 1)
        raise DatasetError(
            f"{path}: column '{feature.name}' has rows without a value, the first of them {where(row)}"
        )
    if not (
        pa.types.is_integer(array.type) or pa.types.is_floating(array.type) or pa.types.is_boolean(array.type)
    ):
        raise DatasetError(
            f"{path}: column '{feature.name}' holds {array.type}, the dataset says {feature.dtype}"
        )
    declared = feature.column_shape
    expected = int(np.prod(declared, dtype=np.int64))
    if size != expected:
        raise DatasetError(
            f"{path}: column '{feature.name}' has {size} numbers per row, "
            f"its shape {list(feature.shape)} has {expected}"
        )
    if len(shape) > 1 and [n for n in shape if n > 1] != [n for n in declared if n > 1]:
        raise DatasetError(
            f"{path}: column '{feature.name}' has rows of shape {list(shape)}, the dataset says "
            f"{list(feature.shape)}"
        )
    values = array.to_numpy(zero_copy_only=False).reshape(rows, *declared)
    try:
        return cast_numbers(values, feature.dtype)
    except CastError as problem:
        raise DatasetError(
            f"{path}: column '{feature.name}' does not hold {feature.dtype}, as the dataset says: {problem}, "
            f"in {where(problem.row)}"
        ) from None


def _whole(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # a column without rows
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    return array


def _unnested(
    array: pa.Array, feature: Feature, path: Path, where: Callable[[int], str]
) -> tuple[pa.Array, tuple[int, ...]]:
    """Strip all list levels; return the numbers, and the shape of one row."""
    shape: list[int] = []
    while True:
        kind = array.type
        if isinstance(kind, pa.ExtensionType):
            array = array.storage
            continue
        fixed = pa.types.is_fixed_size_list(kind)
        if not (fixed or pa.types.is_list(kind) or pa.types.is_large_list(kind)):
            return array, tuple(shape)
        of_row = int(np.prod(shape, dtype=np.int64))
        if array.null_count:
            raise DatasetError(
                f"{path}: column '{feature.name}' has rows without a value, the first of them "
                f"{where(_first_null(array) // max(of_row, 1))}"
            )
        lengths = np.full(len(array), kind.list_size) if fixed else np.diff(array.offsets.to_numpy())
        low, high = (int(lengths.min()), int(lengths.max())) if len(lengths) else (None, None)
        if low is None or high is None:  # no rows, so any shape
            return pa.array([], pa.float32()), tuple(feature.column_shape)
        if low != high:
            declared = feature.shape[len(shape)] if len(shape) < len(feature.shape) else None
            usual = declared if declared is not None and (lengths == declared).any() else lengths[0]
            odd = int(np.flatnonzero(lengths != usual)[0]) // max(of_row, 1)
            raise DatasetError(
                f"{path}: column '{feature.name}' has lists of {low} to {high} numbers, "
                f"{'none' if declared is None else declared} are declared (shape {list(feature.shape)}), the "
                f"first of another length in {where(odd)}"
            )
        shape.append(low)
        array = array.flatten()


def _first_null(array: pa.Array) -> int:
    return int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
