"""Parquet columns as contiguous numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainer.data.errors import DatasetError
from trainer.data.lerobot.info import Feature


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
        first_line = str(problem).strip().splitlines()[0]
        raise DatasetError(
            f"{path}: the file is truncated or damaged and cannot be read as parquet: {first_line}"
        ) from None


def to_numpy(column: pa.ChunkedArray, feature: Feature, path: Path) -> np.ndarray:
    """Return a column as an array `(rows, *feature.column_shape)` of the feature's type.

    Plain numbers, lists of fixed or variable length, nested to any depth, and the extension types that
    array features are stored as are all read; a list must have the shape that the feature promises.

    Raises:
        DatasetError: a value is missing, or the shape or type is not that of the feature.
    """
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # a column without rows
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    rows = len(array)
    expected = int(np.prod(feature.column_shape, dtype=np.int64))
    array, complete = _flatten(array)
    if not complete or array.null_count:
        raise DatasetError(f"{path}: column '{feature.name}' has rows without a value")
    if not (
        pa.types.is_integer(array.type) or pa.types.is_floating(array.type) or pa.types.is_boolean(array.type)
    ):
        raise DatasetError(
            f"{path}: column '{feature.name}' holds {array.type}, the dataset says {feature.dtype}"
        )
    if len(array) != rows * expected:
        raise DatasetError(
            f"{path}: column '{feature.name}' has {len(array) / max(rows, 1):g} numbers per row, "
            f"its shape {list(feature.shape)} has {expected}"
        )
    values = array.to_numpy(zero_copy_only=False)
    return values.astype(feature.dtype, copy=False).reshape(rows, *feature.column_shape)


def _flatten(array: pa.Array) -> tuple[pa.Array, bool]:
    """Strip all list levels; the flag tells whether all lists of a level are there and equally long."""
    while True:
        if isinstance(array.type, pa.ExtensionType):
            array = array.storage
        elif pa.types.is_fixed_size_list(array.type):
            if array.null_count:
                return array, False
            array = array.flatten()
        elif pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
            if array.null_count:
                return array, False
            lengths = np.diff(array.offsets.to_numpy())
            if len(lengths) and lengths.min() != lengths.max():
                return array, False
            array = array.flatten()
        else:
            return array, True
