"""Small random demonstrations in HDF5, written by h5py and damaged now and then; for `fuzz_datasets.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from lerobot_cases import png


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


def store_demonstration(rng: np.random.Generator, group: Any, name: str, arrays: dict[str, Any]) -> list[str]:
    """Write arrays, one of them damaged now and then, and return what was done to that one."""
    done = []
    if rng.random() < 0.3:
        key, kind = str(rng.choice(list(arrays))), str(rng.choice(ARRAYS))
        arrays = {**arrays, key: damaged(rng, kind, arrays[key])}
        done.append(f"{name} {key} {kind}")
    for key, values in arrays.items():
        store(group, key, values)
    return done


def robomimic_case(rng: np.random.Generator, folder: Path) -> list[str]:
    """Write a file of robomimic."""
    floats = bool(rng.random() < 0.4)
    done: list[str] = ["robomimic"]
    with h5py.File(folder / "demos.hdf5", "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "env_kwargs": {"control_freq": 20}})
        for e in range(int(rng.integers(1, 4))):
            arrays = demonstration(rng, int(rng.integers(2, 6)), floats)
            done += store_demonstration(rng, data.create_group(f"demo_{e}"), f"demo_{e}", arrays)
        file["mask/train"] = np.array([b"demo_0"])
    return done


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
        with h5py.File(folder / f"aloha/episode_{e}.hdf5", "w") as file:
            done += store_demonstration(rng, file, f"episode_{e}", arrays)
    return done


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
        with h5py.File(folder / f"episodes/episode_{e}.hdf5", "w") as file:
            done += store_demonstration(rng, file, f"episode_{e}", arrays)
    return done
