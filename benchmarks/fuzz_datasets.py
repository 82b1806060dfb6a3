"""Writes small random datasets, sound and damaged, reads them, and holds the result against pyarrow and h5py.

    python benchmarks/fuzz_datasets.py --cases 500 --seed 0

LeRobot datasets are read by their factory, whole and an episode at a time, and inspected; robomimic and ALOHA
files are converted; HDF5 episodes with a task are read by theirs. Each case is read to the numbers that an
independent reader finds, or refused in one sentence that names the file, and the episode or feature where it
is about one; anything else is a finding, and so is a dataset that training refuses and the inspection finds
sound. The same seed gives the same cases. Prints one JSON line; the exit code is 1 when there is a finding,
whose case is then left in a folder.
"""

from __future__ import annotations

import argparse
import collections
import io
import json
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch.utils.data import DataLoader

from experiment_training.components.dataloader.episodic_data import EpisodicDatasetFactory
from experiment_training.components.dataloader.lerobot_data import LerobotDatasetFactory
from trainer.config.errors import ParameterError
from trainer.data.conversion import convert
from trainer.data.errors import DatasetError
from trainer.data.inspection import inspect_dataset

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


class Wrong(Exception):
    """A case was read to other numbers, or two readers disagree."""


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


# LeRobot datasets


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


def check_lerobot(rng: np.random.Generator, root: Path) -> str:
    """Read a dataset and inspect it; return `right`, `refused`, or `in part` where some episodes are read."""
    inspection = inspect_dataset(root, decode=True) if (root / "meta/info.json").is_file() else None
    try:
        dataset, batch = read_lerobot(root)
    except (ParameterError, DatasetError) as problem:
        check_sentence(str(problem), root)
        found = inspection is None or inspection.faults or any(r.kind == "action" for r in inspection.remarks)
        if not found:
            raise Wrong(f"training says: {problem}; the inspection finds nothing") from None
        parts = 0
        for number in range(3 if inspection is not None and inspection.reader is not None else 0):
            try:
                read_lerobot(root, [number])
                parts += 1
            except (ParameterError, DatasetError) as refusal:
                check_sentence(str(refusal), root)
        return "in part" if parts else "refused"
    for batches in DataLoader(dataset, batch_size=len(dataset)):
        for key, value in batch.items():
            other = batches[key]
            if not (torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other):
                raise Wrong(f"torch's DataLoader has another '{key}'")
    return "right"


def read_lerobot(root: Path, episodes: list[int] | None = None) -> tuple[Any, dict[str, Any]]:
    """Read all samples of a dataset, or of some episodes, and hold them against the files."""
    params: dict[str, Any] = {"root": str(root)} | ({} if episodes is None else {"episodes": episodes})
    dataset = LerobotDatasetFactory().build({}, params)["dataset"]
    batch = dataset.__getitems__(range(len(dataset)))
    names = ("index", "episode_index", "frame_index")
    places = list(zip(*(batch[name].tolist() for name in names), strict=True))
    for key, expected in stored_rows(root, places).items():
        if key in batch:
            compare(key, batch[key].numpy(), expected)
    return dataset, batch


def stored_rows(root: Path, places: list[tuple[int, int, int]]) -> dict[str, list[Any]]:
    """Return what is in the data files of some indices, episodes and frames, as pyarrow reads it."""
    rows: dict[tuple[int, int, int], dict[str, Any]] = {}
    for path in sorted((root / "data").rglob("*.parquet")):
        try:
            for row in pq.read_table(path).to_pylist():
                rows[row["index"], row["episode_index"], row["frame_index"]] = row
        except (pa.ArrowException, OSError, KeyError):
            continue  # a damaged file, of episodes that are not asked for
    return {key: [rows[place][key] for place in places] for key in rows[places[0]]}


def flat(value: Any) -> list[Any]:
    """Return the numbers in nested lists."""
    return [number for one in value for number in flat(one)] if isinstance(value, list) else [value]


def compare(key: str, found: np.ndarray, expected: list[Any]) -> None:
    """Hold a feature of all samples against the rows of the files."""
    if expected and isinstance(expected[0], dict):
        pictures = [np.asarray(Image.open(io.BytesIO(cell["bytes"])).convert("RGB")) for cell in expected]
        if not np.array_equal(found, np.stack(pictures).transpose(0, 3, 1, 2)):
            raise Wrong(f"'{key}' has other pixels")
        return
    wanted = np.array(flat(expected), np.float64).reshape(len(expected), -1)
    got = found.reshape(len(found), -1).astype(np.float64)
    if got.shape != wanted.shape:
        raise Wrong(f"'{key}' has shape {got.shape}, the files have {wanted.shape}")
    slack = np.finfo(found.dtype).eps * np.abs(wanted) + 1e-7 if found.dtype.kind == "f" else 0
    if not (np.abs(got - wanted) <= slack).all():
        raise Wrong(f"'{key}' has other numbers: {got[0]} for {wanted[0]}")


def check_sentence(text: str, folder: Path) -> None:
    """Check that a refusal is one line that names a file."""
    if "\n" in text or len(text) > 1000:
        raise Wrong(f"a refusal of several lines: {text}")
    if str(folder) not in text and "info.json" not in text and "'" not in text:
        raise Wrong(f"a refusal that names nothing: {text}")


# HDF5


def demonstration(rng: np.random.Generator, length: int, floats: bool) -> dict[str, np.ndarray]:
    """Return the arrays of one demonstration of robomimic."""
    picture = np.broadcast_to(rng.integers(40, 200, (length, 1, 1, 3)), (length, 16, 16, 3)).astype(np.uint8)
    return {
        "actions": rng.normal(size=(length, 3)),
        "obs/robot0_eef_pos": rng.normal(size=(length, 3)),
        "obs/object": rng.normal(size=(length, 2, 2)).astype(np.float32),
        "obs/counter": rng.integers(0, 1000, (length, 1)),
        "obs/nested/part": rng.integers(0, 2, (length,)).astype(bool),
        "obs/agentview_image": (picture / np.float32(255)).astype(np.float32) if floats else picture,
        "rewards": rng.normal(size=length),
        "dones": np.arange(length) == length - 1,
    }


ARRAYS = (
    "missing",
    "short",
    "empty",
    "nan",
    "text",
    "scalar",
    "group",
    "wide",
    "overshoot",
    "huge",
    "uint16",
)


def damaged(rng: np.random.Generator, kind: str, values: np.ndarray) -> Any:
    """Return an array that something is wrong with; None where it is to be left out."""
    if kind == "missing":
        return None
    if kind in ("short", "empty"):
        return values[: -1 if kind == "short" else 0]
    if kind == "text":
        return np.array([b"x"] * len(values))
    if kind == "scalar":
        return np.float32(1)
    if kind == "group":
        return {"inside": values}
    if kind == "wide":
        return np.repeat(values, 2, axis=-1) if values.ndim > 1 else np.stack([values, values], 1)
    if kind == "uint16":
        return values.astype(np.uint16) + 300
    changed = np.array(values)
    place = tuple(rng.integers(0, size) for size in changed.shape)
    if changed.dtype.kind == "f":
        changed[place] = {"nan": np.nan, "overshoot": 1.02, "huge": 1e30}[kind]
    return changed


def store(group: Any, key: str, values: Any) -> None:
    """Write an array, or a group where it is one."""
    if isinstance(values, dict):
        for name, inside in values.items():
            group[f"{key}/{name}"] = inside
    elif values is not None:
        group[key] = values


def robomimic_case(rng: np.random.Generator, folder: Path) -> list[str]:
    """Write a file of robomimic."""
    floats = bool(rng.random() < 0.4)
    done: list[str] = ["robomimic"]
    with h5py.File(folder / "demos.hdf5", "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "env_kwargs": {"control_freq": 20}})
        for e in range(int(rng.integers(1, 4))):
            arrays: dict[str, Any] = demonstration(rng, int(rng.integers(2, 6)), floats)
            if rng.random() < 0.3:
                key, kind = str(rng.choice(list(arrays))), str(rng.choice(ARRAYS))
                arrays[key] = damaged(rng, kind, arrays[key])
                done.append(f"demo_{e} {key} {kind}")
            demo = data.create_group(f"demo_{e}")
            for key, values in arrays.items():
                store(demo, key, values)
        file["mask/train"] = np.array([b"demo_0"])
    return done


def check_robomimic(rng: np.random.Generator, folder: Path) -> str:
    """Convert a file and hold the dataset against it."""
    source, target = folder / "demos.hdf5", folder / "out"
    try:
        convert(source, target)
    except DatasetError as problem:
        check_sentence(str(problem), source)
        return "refused"
    batch = whole(target)
    names = {"actions": "action", "obs/robot0_eef_pos": "observation.state", "rewards": "next.reward"}
    names |= {"obs/object": "observation.object", "obs/counter": "observation.counter"}
    with h5py.File(source, "r") as file:
        demos = sorted(file["data"], key=lambda name: int(name.removeprefix("demo_")))
        for key, name in names.items():
            stored = [file["data"][demo].get(key) for demo in demos]
            if name in batch and all(isinstance(one, h5py.Dataset) for one in stored):
                compare(name, batch[name].numpy(), [v for one in stored for v in one[:].tolist()])
        pictures = [file["data"][demo].get("obs/agentview_image") for demo in demos]
        compare_pictures(batch, "observation.images.agentview", pictures)
    return inspected(target)


def aloha_case(rng: np.random.Generator, folder: Path) -> list[str]:
    """Write a folder of ALOHA episodes."""
    (folder / "aloha").mkdir()
    done = ["aloha"]
    layout = str(rng.choice(["uint8", "float", "encoded"]))
    for e in range(int(rng.integers(1, 4))):
        length = int(rng.integers(2, 6))
        demo = demonstration(rng, length, layout == "float")
        arrays: dict[str, Any] = {"action": demo["actions"], "observations/qpos": demo["obs/object"]}
        arrays["observations/qvel"] = demo["obs/robot0_eef_pos"]
        arrays["observations/images/top"] = demo["obs/agentview_image"]
        if layout == "encoded":
            codes = [png(one) for one in demo["obs/agentview_image"]]
            padded = np.zeros((length, max(map(len, codes)) + 3), np.uint8)
            for row, code in zip(padded, codes, strict=True):
                row[: len(code)] = np.frombuffer(code, np.uint8)
            arrays["observations/images/top"] = padded
        if rng.random() < 0.3:
            key, kind = str(rng.choice(list(arrays))), str(rng.choice(ARRAYS))
            arrays[key] = damaged(rng, kind, arrays[key])
            done.append(f"episode_{e} {key} {kind}")
        with h5py.File(folder / f"aloha/episode_{e}.hdf5", "w") as file:
            for key, values in arrays.items():
                store(file, key, values)
    return done


def check_aloha(rng: np.random.Generator, folder: Path) -> str:
    """Convert a folder and hold the dataset against it."""
    source, target = folder / "aloha", folder / "out"
    try:
        convert(source, target)
    except DatasetError as problem:
        check_sentence(str(problem), source)
        return "refused"
    batch = whole(target)
    names = {"action": "action", "observations/qpos": "observation.state"}
    names["observations/qvel"] = "observation.velocity"
    paths = sorted(source.glob("*.hdf5"))
    for key, name in names.items():
        rows: list[Any] = []
        for path in paths:
            with h5py.File(path, "r") as file:
                rows += file[key][:].tolist() if name in batch else []
        if rows:
            compare(name, batch[name].numpy(), rows)
    files = [h5py.File(path, "r") for path in paths]
    compare_pictures(batch, "observation.images.top", [file.get("observations/images/top") for file in files])
    for file in files:
        file.close()
    return inspected(target)


def whole(root: Path) -> dict[str, Any]:
    """Return all samples of a dataset with every feature of it."""
    info = json.loads((root / "meta/info.json").read_text())
    names = [name for name in info["features"] if name not in (*BOOKKEEPING, "action")]
    dataset = LerobotDatasetFactory().build({}, {"root": str(root), "features": names})["dataset"]
    return dict(dataset.__getitems__(range(len(dataset))))


def inspected(root: Path) -> str:
    """Check that what was converted is sound."""
    faults = [f for f in inspect_dataset(root, decode=True).faults if f.kind != "jump"]
    if faults:
        raise Wrong(f"what was converted has faults: {faults[0].message}")
    return "right"


def compare_pictures(batch: dict[str, Any], key: str, stored: list[Any]) -> None:
    """Hold the colours of a film, frame by frame, against the pixels that went in."""
    if key not in batch or any(one is None for one in stored):
        return
    wanted = []
    for one in stored:
        pixels = one[:]
        if pixels.ndim == 2:
            pixels = np.stack([np.asarray(Image.open(io.BytesIO(row.tobytes()))) for row in pixels])
        wanted.append(pixels.astype(np.float64) * (255 if pixels.dtype.kind == "f" else 1))
    colours = np.concatenate(wanted).clip(0, 255).mean(axis=(1, 2))
    got = batch[key].numpy().astype(np.float64).mean(axis=(2, 3))
    if np.abs(got - colours).max() > 14:
        raise Wrong(f"'{key}' has other colours: {got[0]} for {colours[0]}")


def episodic_case(rng: np.random.Generator, folder: Path) -> list[str]:
    """Write HDF5 episodes and the JSON of their task."""
    (folder / "episodes").mkdir()
    task = {"robot_id": "r", "task_name": "t", "data_collection_method": "m", "data_collector": "c", "HZ": 10}
    task |= {"compression": None, "episode_len": 5, "image_resize": None}
    fields = {"/observation/pose": None, "/observation/counter": None, "/action/joint": None}
    task["data_dict"] = fields | {"/observation/images/head": None}
    (folder / "task.json").write_text(json.dumps(task))
    done = ["episodic"]
    floats = bool(rng.random() < 0.4)
    for e in range(int(rng.integers(1, 4))):
        demo = demonstration(rng, int(rng.integers(2, 6)), floats)
        arrays: dict[str, Any] = {"observation/pose": demo["obs/object"], "action/joint": demo["actions"]}
        arrays |= {
            "observation/counter": demo["obs/counter"],
            "observation/images/head": demo["obs/agentview_image"],
        }
        if rng.random() < 0.3:
            key, kind = str(rng.choice(list(arrays))), str(rng.choice(ARRAYS))
            arrays[key] = damaged(rng, kind, arrays[key])
            done.append(f"episode_{e} {key} {kind}")
        with h5py.File(folder / f"episodes/episode_{e}.hdf5", "w") as file:
            for key, values in arrays.items():
                store(file, key, values)
    return done


def check_episodic(rng: np.random.Generator, folder: Path) -> str:
    """Read the episodes and hold them against the files."""
    params = {"task_config_path": str(folder), "task_name": "task", "dataset_dir_l": str(folder / "episodes")}
    params |= {"chunk_size": 1, "robot_obs_size": 1, "img_obs_size": 1, "skip_mirrored_data": False}
    try:
        dataset = EpisodicDatasetFactory().build({}, {**params, "stereo_half": "both"})["dataset"]
        batch = dataset.__getitems__(range(len(dataset)))
    except (ParameterError, DatasetError) as problem:
        check_sentence(str(problem), folder)
        return "refused"
    files = [h5py.File(path, "r") for path in sorted((folder / "episodes").glob("*.hdf5"))]
    state = []
    for file in files:
        parts = [
            file[f"observation/{name}"][:].reshape(len(file["action/joint"]), -1)
            for name in ("pose", "counter")
        ]
        state += np.concatenate(parts, axis=1).tolist()
    compare("observation.state", batch["observation.state"].numpy(), state)
    compare("action", batch["action"].numpy(), [v for f in files for v in f["action/joint"][:].tolist()])
    compare_pictures(batch, "observation.images.head", [f.get("observation/images/head") for f in files])
    for file in files:
        file.close()
    return "right"


KINDS: dict[str, tuple[Callable[..., list[str]], Callable[..., str]]] = {
    "lerobot": (lerobot_case, check_lerobot),
    "robomimic": (robomimic_case, check_robomimic),
    "aloha": (aloha_case, check_aloha),
    "episodic": (episodic_case, check_episodic),
}


def main() -> int:
    """Run all cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--cases", type=int, default=500, help="of LeRobot; a tenth as many of each other kind"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--findings", type=Path, default=Path("fuzz_datasets_findings"))
    arguments = parser.parse_args()
    started = time.perf_counter()
    counts: collections.Counter[str] = collections.Counter()
    for kind, (write, check) in KINDS.items():
        for number in range(arguments.cases if kind == "lerobot" else arguments.cases // 10):
            rng = np.random.default_rng([arguments.seed, number, list(KINDS).index(kind)])
            with tempfile.TemporaryDirectory() as folder:
                root = Path(folder) / "case"
                root.mkdir()
                done = write(rng, root)
                try:
                    counts[f"{kind} {check(rng, root)}"] += 1
                except Exception as problem:
                    counts[f"{kind} findings"] += 1
                    kept = arguments.findings / f"{kind}_seed{arguments.seed}_case{number}"
                    shutil.copytree(root, kept, dirs_exist_ok=True)
                    (kept / "finding.txt").write_text(f"{done}\n{traceback.format_exc()}", encoding="utf-8")
                    print(f"{kept}: {done}: {type(problem).__name__}: {problem}", file=sys.stderr)
    counts["seed"] = arguments.seed
    print(json.dumps({**counts, "seconds": round(time.perf_counter() - started, 1)}))
    return int(any(count for name, count in counts.items() if name.endswith("findings")))


if __name__ == "__main__":
    sys.exit(main())
