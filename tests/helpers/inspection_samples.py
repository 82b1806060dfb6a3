"""Healthy datasets for the catalogue of faults, and the tools to damage them."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainer.data.lerobot import LeRobotWriter

FPS = 10
LENGTHS = (40, 60, 50, 45)
CAMERA = "observation.images.top"
SIZE = (32, 48)
DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
VIDEO = f"videos/{CAMERA}/chunk-000/file-000.mp4"

FEATURES: dict[str, dict[str, Any]] = {
    "observation.state": {"dtype": "float32", "shape": [3], "names": ["x", "y", "angle"]},
    "observation.gripper": {"dtype": "float32", "shape": [1], "names": None},
    "action": {"dtype": "float32", "shape": [2], "names": ["dx", "dy"]},
    "next.done": {"dtype": "bool", "shape": [1], "names": None},
}


def healthy(root: Path, **options: Any) -> Path:
    """Write smooth movements with a gripper that switches and an angle that wraps: nothing is wrong."""
    rng = np.random.default_rng(0)
    with LeRobotWriter(root, fps=FPS, features=FEATURES, robot_type="arm", **options) as writer:
        for length in LENGTHS:
            action = np.cumsum(rng.normal(scale=0.05, size=(length, 2)), axis=0).astype(np.float32)
            place = np.cumsum(0.1 * action, axis=0)
            angle = np.mod(np.linspace(5, 8, length) + rng.normal(scale=0.01, size=length), 2 * np.pi)
            writer.add_episode(
                {
                    "observation.state": np.column_stack([place, angle]).astype(np.float32),
                    "observation.gripper": (np.arange(length) > length // 2).astype(np.float32)[:, None],
                    "action": action,
                    "next.done": (np.arange(length) == length - 1)[:, None],
                },
                f"push the block, way {length % 2}",
            )
    return root


def with_video(root: Path, frames: int = sum(LENGTHS)) -> Path:
    """Give a dataset a camera: one film with all episodes end to end."""

    def describe(info: dict[str, Any]) -> None:
        info["features"][CAMERA] = {
            "dtype": "video",
            "shape": [*SIZE, 3],
            "names": ["height", "width", "channels"],
        }
        info["video_path"] = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"

    change_info(root, describe)

    def place(table: pa.Table) -> pa.Table:
        ends = np.cumsum(LENGTHS) / FPS
        begins = ends - np.array(LENGTHS) / FPS
        for name, values in (("from_timestamp", begins), ("to_timestamp", ends)):
            table = table.append_column(f"videos/{CAMERA}/{name}", pa.array(values))
        for name in ("chunk_index", "file_index"):
            table = table.append_column(f"videos/{CAMERA}/{name}", pa.array([0] * len(LENGTHS)))
        return table

    change_table(root / EPISODES, place)
    write_film(root / VIDEO, range(frames))
    return root


def write_film(path: Path, stamps: Any, fps: int = FPS, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"g": "2", "bf": "0"})
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, fps)
        for stamp in stamps:
            picture = np.full((*size, 3), 10 + (stamp * 7) % 200, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = int(stamp), Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def as_v21(root: Path) -> None:
    """Lay a dataset out as version 2.1 does: a file for each episode."""
    episodes = pq.read_table(root / EPISODES)
    table = pq.read_table(root / DATA)
    lines = []
    for row in episodes.select(["episode_index", "length", "tasks", "dataset_from_index"]).to_pylist():
        number, length = row["episode_index"], row["length"]
        path = root / f"data/chunk-000/episode_{number:06d}.parquet"
        pq.write_table(table.slice(row["dataset_from_index"], length), path)
        lines.append(json.dumps({"episode_index": number, "length": length, "tasks": row["tasks"]}))
        stamps = range(length)
        write_film(root / f"videos/chunk-000/{CAMERA}/episode_{number:06d}.mp4", stamps)
    (root / DATA).unlink()
    (root / "meta/stats.json").unlink()
    (root / "meta/episodes.jsonl").write_text("\n".join(lines))
    tasks = pq.read_table(root / "meta/tasks.parquet").to_pylist()
    text = "\n".join(json.dumps({"task_index": t["task_index"], "task": t["task"]}) for t in tasks)
    (root / "meta/tasks.jsonl").write_text(text)
    change_info(
        root,
        lambda info: info.update(
            codebase_version="v2.1",
            data_path="data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
            video_path="videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        ),
    )


def change_info(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    change_json(root / "meta/info.json", change)


def change_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def change_table(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    with pq.ParquetFile(path) as file:
        table = file.read()
    pq.write_table(change(table), path)


def change_column(root: Path, name: str, change: Callable[[np.ndarray], np.ndarray | None]) -> None:
    """Change a column of the data file; rows are `(N, D)`, or `(N,)` for plain numbers."""

    def replaced(table: pa.Table) -> pa.Table:
        column = table.column(name).combine_chunks()
        kind = column.type
        nested = pa.types.is_fixed_size_list(kind)
        flat = np.array((column.flatten() if nested else column).to_numpy(zero_copy_only=False))
        values = flat.reshape(len(column), -1) if nested else flat
        found = change(values)
        values = values if found is None else found
        array = pa.array(values.reshape(-1), kind.value_type if nested else kind)
        array = pa.FixedSizeListArray.from_arrays(array, kind.list_size) if nested else array
        return table.set_column(table.column_names.index(name), name, array)

    change_table(root / DATA, replaced)
