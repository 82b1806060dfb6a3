"""Small random LeRobot datasets, written by pyarrow alone, damaged now and then; for `fuzz_datasets.py`."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

BOOKKEEPING = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
TYPES = (
    "float16",
    "float32",
    "float64",
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
)
SHAPES = ((1,), (2,), (3,), (2, 3), (3, 1), (1, 1), (2, 2, 2))
NAMES = (
    "observation.state",
    "observation.é",
    "observation.a b",
    "observation.images_like",
    "observation.x.y",
)
TASKS = ("pick it up", "place\u2028it", "\u0085", "a 'b' \"c\"", "ü" * 40)
FPS = 10


def numbers(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return numbers of any size that a type holds."""
    kind = np.dtype(dtype).kind
    if kind == "b":
        return rng.random(shape) < 0.5
    if kind == "f":
        return (rng.normal(size=shape) * 10.0 ** rng.integers(-2, 4)).astype(dtype)
    limits = np.iinfo(dtype)
    span = int(rng.choice([2, 100, 2**40]))
    return rng.integers(max(limits.min, -span), min(limits.max, span), shape, dtype=dtype, endpoint=True)


def arrow(rng: np.random.Generator, values: np.ndarray) -> pa.Array:
    """Return an arrow column in one of the layouts that writers use."""
    column = pa.array(values.reshape(-1))
    layout = rng.choice(["fixed", "list", "large", "flat"])
    sizes = list(values.shape[1:])
    if sizes == [1] and rng.random() < 0.5:
        return column
    if layout == "flat":
        sizes = [int(np.prod(sizes))]
    for size in reversed(sizes):
        offsets = np.arange(0, len(column) + 1, size)
        if layout == "fixed":
            column = pa.FixedSizeListArray.from_arrays(column, size)
        elif layout == "large":
            column = pa.LargeListArray.from_arrays(offsets.astype(np.int64), column)
        else:
            column = pa.ListArray.from_arrays(offsets.astype(np.int32), column)
    return column


def png(pixels: np.ndarray) -> bytes:
    """Return a picture as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def lerobot_case(rng: np.random.Generator, root: Path) -> list[str]:
    """Write a dataset, then damage it now and then; return what was done to it."""
    lengths = rng.integers(1, 8, rng.integers(1, 4)).tolist()
    tasks = list(rng.permutation(TASKS)[: rng.integers(1, 3)])
    features: dict[str, dict[str, Any]] = {}
    columns: dict[str, np.ndarray] = {}
    total = sum(lengths)
    done: list[str] = []
    chosen = rng.choice(NAMES, rng.integers(1, 4), replace=False).tolist()
    for name in [*chosen, "action"]:
        declared, shape = str(rng.choice(TYPES)), SHAPES[rng.integers(len(SHAPES))]
        stored = declared if rng.random() < 0.8 else str(rng.choice(TYPES))
        features[name] = {"dtype": declared, "shape": list(shape), "names": None}
        columns[name] = numbers(rng, stored, (total, *shape))
        done += [f"{name} {stored} as {declared}"] if stored != declared else []
    table = {name: arrow(rng, values) for name, values in columns.items()}
    if rng.random() < 0.3:
        pixels = rng.integers(0, 256, (total, 8, 10, 3), dtype=np.uint8)
        cells = [{"bytes": png(one), "path": None} for one in pixels]
        shape = [8, 10, 3] if rng.random() < 0.7 else [3, 8, 10]
        features["observation.images.top"] = {"dtype": "image", "shape": shape, "names": None}
        table["observation.images.top"] = pa.array(
            cells, pa.struct({"bytes": pa.binary(), "path": pa.string()})
        )
    task_of = rng.integers(0, len(tasks), len(lengths))
    frame = np.concatenate([np.arange(n) for n in lengths])
    table |= {
        "timestamp": pa.array((frame / FPS).astype(np.float32)),
        "frame_index": pa.array(frame),
        "episode_index": pa.array(np.repeat(np.arange(len(lengths)), lengths)),
        "index": pa.array(np.arange(total)),
        "task_index": pa.array(np.repeat(task_of, lengths)),
    }
    features |= {name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in BOOKKEEPING.items()}
    whole = pa.table(table)
    damages = list(rng.choice(list(IN_TABLE), rng.choice([0, 0, 1]), replace=False))
    for name in damages:
        whole = IN_TABLE[name](rng, whole, features)
    version = str(rng.choice(["v2.1", "v3.0"]))
    write_lerobot(root, version, whole, lengths, [tasks[i] for i in task_of], tasks, features, rng)
    for name in rng.choice(list(IN_FOLDER), rng.choice([0, 0, 1]), replace=False):
        IN_FOLDER[name](rng, root)
        damages.append(name)
    return [version, *done, *map(str, damages)]


def write_lerobot(
    root: Path,
    version: str,
    table: pa.Table,
    lengths: list[int],
    texts: list[str],
    tasks: list[str],
    features: dict[str, Any],
    rng: np.random.Generator,
) -> None:
    """Write the files of either version; the table's own rows, right or wrong, are those of the episodes."""
    (root / "meta").mkdir(parents=True)
    starts = np.cumsum([0, *lengths])
    old = version == "v2.1"
    split = int(rng.integers(1, len(lengths) + 1))  # in v3.0 the episodes before it are in the first file
    groups = (
        [[e] for e in range(len(lengths))] if old else [list(range(split)), list(range(split, len(lengths)))]
    )
    for place, episodes in enumerate(groups):
        if episodes:
            name = f"episode_{place:06d}" if old else f"file-{place:03d}"
            path = root / f"data/chunk-000/{name}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            part = table.slice(starts[episodes[0]], starts[episodes[-1] + 1] - starts[episodes[0]])
            pq.write_table(part, path)
    rows = [
        {"episode_index": e, "tasks": [texts[e]], "length": n, "data/chunk_index": 0}
        | {"data/file_index": int(e >= split), "dataset_from_index": int(starts[e])}
        | {"dataset_to_index": int(starts[e + 1])}
        for e, n in enumerate(lengths)
    ]
    if old:
        lines = [{key: row[key] for key in ("episode_index", "tasks", "length")} for row in rows]
        (root / "meta/episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        named = [json.dumps({"task_index": i, "task": t}, ensure_ascii=False) for i, t in enumerate(tasks)]
        (root / "meta/tasks.jsonl").write_text("".join(line + "\n" for line in named), encoding="utf-8")
    else:
        path = root / "meta/episodes/chunk-000/file-000.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), path)
        pq.write_table(
            pa.table({"task_index": range(len(tasks)), "task": tasks}), root / "meta/tasks.parquet"
        )
    info = {
        "codebase_version": version,
        "total_episodes": len(lengths),
        "total_frames": sum(lengths),
        "chunks_size": 1000,
        "fps": FPS,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
        if old
        else "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": None,
        "features": features,
    }
    (root / "meta/info.json").write_text(json.dumps(info))


def _column(rng: np.random.Generator, table: pa.Table) -> str:
    return str(rng.choice(table.column_names))


def _with(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    place = table.column_names.index(name)
    kind = table.schema.field(name).type
    if pa.types.is_fixed_size_list(kind):
        kind = pa.list_(kind.value_type)
    try:
        column = pa.array(values, kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        column = pa.array([None if isinstance(v, dict) else str(v) for v in values])
    return table.set_column(place, name, column)


def _replaced(value: Any, new: Any) -> Any:
    return [_replaced(value[0], new), *value[1:]] if isinstance(value, list) and value else new


def _cell(new: Any) -> Callable[..., pa.Table]:
    def damage(rng: np.random.Generator, table: pa.Table, features: dict[str, Any]) -> pa.Table:
        name = _column(rng, table)
        values = table.column(name).to_pylist()
        row = int(rng.integers(len(values)))
        values[row] = _replaced(values[row], new) if not isinstance(values[row], dict) else new
        return _with(table, name, values)

    return damage


def _null_row(rng: np.random.Generator, table: pa.Table, features: dict[str, Any]) -> pa.Table:
    name = _column(rng, table)
    values = table.column(name).to_pylist()
    values[int(rng.integers(len(values)))] = None
    return _with(table, name, values)


def _ragged(rng: np.random.Generator, table: pa.Table, features: dict[str, Any]) -> pa.Table:
    values = table.column("action").to_pylist()
    row = int(rng.integers(len(values)))
    values[row] = [*values[row], *values[row]] if isinstance(values[row], list) else values[row]
    return _with(table, "action", values)


def _dropped(rng: np.random.Generator, table: pa.Table, features: dict[str, Any]) -> pa.Table:
    return table.drop_columns([_column(rng, table)])


def _extra(rng: np.random.Generator, table: pa.Table, features: dict[str, Any]) -> pa.Table:
    return table.append_column("not described", pa.array(["x"] * table.num_rows))


def _text(rng: np.random.Generator, table: pa.Table, features: dict[str, Any]) -> pa.Table:
    name = _column(rng, table)
    return table.set_column(table.column_names.index(name), name, pa.array(["x"] * table.num_rows))


def _as_float(rng: np.random.Generator, table: pa.Table, features: dict[str, Any]) -> pa.Table:
    name = str(rng.choice([key for key in BOOKKEEPING if key in table.column_names]))
    column = table.column(name).cast(pa.float64())
    return table.set_column(table.column_names.index(name), name, column)


def _shape(rng: np.random.Generator, table: pa.Table, features: dict[str, Any]) -> pa.Table:
    features[str(rng.choice(list(features)))]["shape"] = list(SHAPES[rng.integers(len(SHAPES))])
    return table


def _description(rng: np.random.Generator, table: pa.Table, features: dict[str, Any]) -> pa.Table:
    name = str(rng.choice(list(features)))
    broken = [
        {},
        {"dtype": "float32"},
        {"dtype": "float32", "shape": [0]},
        {"dtype": "float32", "shape": "3"},
    ]
    broken += [{"dtype": "complex64", "shape": [1]}, {"dtype": None, "shape": [1]}, None, "float32"]
    broken += [{"dtype": "string", "shape": [1]}, {"dtype": "int64", "shape": [True]}]
    features[name] = broken[rng.integers(len(broken))]
    return table


def _picture(rng: np.random.Generator, table: pa.Table, features: dict[str, Any]) -> pa.Table:
    name = "observation.images.top"
    if name not in table.column_names:
        return table
    cells = table.column(name).to_pylist()
    deep = Image.fromarray(np.full((8, 10), 40000, np.uint16))
    buffer = io.BytesIO()
    deep.save(buffer, "PNG")
    rows = np.zeros((8, 10, 4), np.uint8)
    bad = [{"bytes": cells[0]["bytes"][:50]}, {"bytes": b"no"}, {"path": "/nowhere.png"}, {"bytes": None}]
    bad += [
        {"bytes": png(np.zeros((4, 10, 3), np.uint8))},
        {"bytes": buffer.getvalue()},
        {"bytes": png(rows)},
    ]
    cells[int(rng.integers(len(cells)))] = bad[rng.integers(len(bad))]
    return _with(table, name, cells)


IN_TABLE: dict[str, Callable[..., pa.Table]] = {
    "nan": _cell(float("nan")),
    "infinite": _cell(float("inf")),
    "large": _cell(300),
    "huge": _cell(2**62),
    "fraction": _cell(0.5),
    "negative": _cell(-1),
    "null number": _cell(None),
    "null row": _null_row,
    "ragged": _ragged,
    "dropped column": _dropped,
    "extra column": _extra,
    "column of text": _text,
    "bookkeeping as floats": _as_float,
    "other shape": _shape,
    "description": _description,
    "picture": _picture,
}


def _files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def _gone(rng: np.random.Generator, root: Path) -> None:
    files = _files(root)
    files[rng.integers(len(files))].unlink()


def _cut(rng: np.random.Generator, root: Path) -> None:
    files = _files(root)
    path = files[rng.integers(len(files))]
    content = path.read_bytes()
    path.write_bytes(content[: int(rng.integers(len(content) + 1))])


def _flipped(rng: np.random.Generator, root: Path) -> None:
    """Spoil a text file; a flipped bit in a parquet file may be another number, which nobody can see."""
    files = [path for path in _files(root) if path.suffix != ".parquet"]
    path = files[rng.integers(len(files))]
    content = bytearray(path.read_bytes())
    if content:
        content[rng.integers(len(content))] ^= 0x80
    path.write_bytes(content)


def _info(rng: np.random.Generator, root: Path) -> None:
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    values = [None, 0, -1, 2.5, "7", [], {}, True, float("inf"), 10**30]
    info[str(rng.choice([key for key in info if key != "features"]))] = values[rng.integers(len(values))]
    path.write_text(json.dumps(info))


def _lines(rng: np.random.Generator, root: Path) -> None:
    files = sorted((root / "meta").glob("*.jsonl"))
    if not files:
        return
    path = files[rng.integers(len(files))]
    lines = path.read_text(encoding="utf-8").strip("\n").split("\n")
    place = int(rng.integers(len(lines)))
    entry = json.loads(lines[place])
    values = [None, -1, 0.5, "x", ["a"], {}, True, 2**70, 0, 1]
    entry[str(rng.choice(list(entry)))] = values[rng.integers(len(values))]
    lines[place] = json.dumps(entry)
    if rng.random() < 0.3:
        lines.append(lines[place])
    path.write_text("\n".join(lines), encoding="utf-8")


def _episode_table(rng: np.random.Generator, root: Path) -> None:
    files = sorted((root / "meta").rglob("*.parquet"))
    if not files:
        return
    path = files[rng.integers(len(files))]
    table = pq.read_table(path)
    name = _column(rng, table)
    values = table.column(name).to_pylist()
    new = [None, -1, 0.5, "x", 1, ["pick it up"], 2**62]
    values[int(rng.integers(len(values)))] = new[rng.integers(len(new))]
    pq.write_table(_with(table, name, values), path)


IN_FOLDER: dict[str, Callable[[np.random.Generator, Path], None]] = {
    "file gone": _gone,
    "file cut": _cut,
    "text flipped": _flipped,
    "info.json": _info,
    "json lines": _lines,
    "table in meta": _episode_table,
}
