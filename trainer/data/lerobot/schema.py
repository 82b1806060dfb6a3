"""The parquet schemas of LeRobot v3.0: as lerobot, the `datasets` library and pandas expect to find them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from trainer.data.lerobot.info import Feature
from trainer.data.statistics import STATISTICS

_ARROW_TYPES = {
    "float16": pa.float16(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    **{
        f"{sign}int{bits}": getattr(pa, f"{sign}int{bits}")()
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
}


def _is_scalar(feature: Feature) -> bool:
    return feature.shape == (1,)


def data_schema(features: Mapping[str, Feature]) -> pa.Schema:
    """Return the schema of a data file; its metadata describes the features to the `datasets` library."""
    features = {name: feature for name, feature in features.items() if not feature.is_frames}
    described = {name: _datasets_feature(feature) for name, feature in features.items()}
    metadata = {"huggingface": json.dumps({"info": {"features": described}})}
    return pa.schema([(name, _arrow_type(feature)) for name, feature in features.items()], metadata=metadata)


def data_array(feature: Feature, values: np.ndarray) -> pa.Array:
    """Return a column for `data_schema` from values of shape `(rows, *shape)` or, for scalars, `(rows,)`."""
    array = pa.array(np.ascontiguousarray(values).reshape(-1), _ARROW_TYPES[feature.dtype])
    if _is_scalar(feature):
        return array
    if len(feature.shape) == 1:
        return pa.FixedSizeListArray.from_arrays(array, feature.shape[0])
    for size in reversed(feature.shape):
        array = pa.ListArray.from_arrays(np.arange(0, len(array) + 1, size, dtype=np.int32), array)
    return array


def _arrow_type(feature: Feature) -> pa.DataType:
    kind = _ARROW_TYPES[feature.dtype]
    if _is_scalar(feature):
        return kind
    if len(feature.shape) == 1:
        return pa.list_(kind, feature.shape[0])
    for _ in feature.shape:
        kind = pa.list_(kind)
    return kind


def _datasets_feature(feature: Feature) -> dict[str, Any]:
    value = {"dtype": feature.dtype, "_type": "Value"}
    if _is_scalar(feature):
        return value
    if len(feature.shape) == 1:
        return {"feature": value, "length": feature.shape[0], "_type": "List"}
    return {"shape": list(feature.shape), "dtype": feature.dtype, "_type": f"Array{len(feature.shape)}D"}


def tasks_table(tasks: list[str]) -> pa.Table:
    """Return the table of tasks: pandas reads the texts as the index of a frame with `task_index`."""
    column = {"metadata": None}
    described = {
        "index_columns": ["task"],
        "column_indexes": [
            {
                "name": None,
                "field_name": None,
                "pandas_type": "unicode",
                "numpy_type": "object",
                "metadata": {"encoding": "UTF-8"},
            }
        ],
        "columns": [
            {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64"}
            | column,
            {"name": "task", "field_name": "task", "pandas_type": "unicode", "numpy_type": "object"} | column,
        ],
        "attributes": {},
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.0.0",
    }
    schema = pa.schema(
        [("task_index", pa.int64()), ("task", pa.string())], metadata={"pandas": json.dumps(described)}
    )
    return pa.table([pa.array(range(len(tasks)), pa.int64()), pa.array(tasks, pa.string())], schema=schema)


def episodes_schema(features: Mapping[str, Feature]) -> pa.Schema:
    """Return the schema of the episode table."""
    fields: list[tuple[str, pa.DataType]] = [
        ("episode_index", pa.int64()),
        ("tasks", pa.list_(pa.string())),
        ("length", pa.int64()),
        ("data/chunk_index", pa.int64()),
        ("data/file_index", pa.int64()),
        ("dataset_from_index", pa.int64()),
        ("dataset_to_index", pa.int64()),
    ]
    for name, feature in features.items():
        if feature.is_frames:
            prefix = f"videos/{name}"
            fields += [(f"{prefix}/{place}", pa.int64()) for place in ("chunk_index", "file_index")]
            fields += [(f"{prefix}/{time}", pa.float64()) for time in ("from_timestamp", "to_timestamp")]
        for statistic in STATISTICS:
            whole = statistic == "count" or (statistic in ("min", "max") and "int" in feature.dtype)
            kind = pa.int64() if whole else pa.float64()
            for _ in (1,) if statistic == "count" else feature.shape:
                kind = pa.list_(kind)
            fields.append((f"stats/{name}/{statistic}", kind))
    fields += [("meta/episodes/chunk_index", pa.int64()), ("meta/episodes/file_index", pa.int64())]
    return pa.schema(fields)
