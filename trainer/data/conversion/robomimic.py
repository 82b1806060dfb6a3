"""robomimic: one HDF5 file with `data/demo_<n>/{actions, obs/<key>, rewards, dones}`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.conversion.source import (
    Columns,
    Frames,
    Source,
    as_picture,
    column_shape,
    float_scale,
    is_picture,
    needed,
    number_type,
    picture_size,
)
from trainer.data.errors import DatasetError

_STATE = re.compile(r"robot\d+_(eef_pos|eef_quat|gripper_qpos)")
_SINGLE = {"rewards": "next.reward", "dones": "next.done"}


def open_robomimic(path: Path) -> Source:
    """Open a robomimic file.

    `actions` becomes `action`; position, orientation and gripper of the robots, joined in the file's order,
    become `observation.state`; pictures become `observation.images.<name>` (without `_image`), every other
    observation `observation.<key>`; `rewards` and `dones` become `next.reward` and `next.done`.

    Raises:
        DatasetError: h5py is not installed, or the file is damaged or not such a file.
    """
    h5py = needed("h5py", "robomimic files")
    try:
        file = h5py.File(path, "r")
    except OSError as problem:
        raise DatasetError(f"{path}: this cannot be read as HDF5: {problem}") from None
    demos = sorted(file.get("data", ()), key=_number)
    if not demos:
        raise DatasetError(f"{path}: there is no data/demo_… in it, so it is not a robomimic file")
    first = file["data"][demos[0]]
    if "actions" not in first or "obs" not in first:
        raise DatasetError(f"{path}: {demos[0]} needs actions and obs")
    observations = first["obs"]
    pictures = [key for key in observations if is_picture(observations[key].shape[1:])]
    state = [key for key in observations if _STATE.fullmatch(key)]
    others = [key for key in observations if key not in (*pictures, *state)]
    features = {"action": _described(first["actions"], path)}
    if state:
        width = sum(int(np.prod(observations[key].shape[1:], dtype=np.int64)) for key in state)
        features["observation.state"] = ("float32", (width,))
    for key in others:
        features[f"observation.{key}"] = _described(observations[key], path)
    for key in pictures:
        features[_camera(key)] = ("video", picture_size(observations[key].shape[1:]))
    single = {key: name for key, name in _SINGLE.items() if key in first}
    for key, name in single.items():
        features[name] = ("bool" if key == "dones" else "float32", (1,))

    def read(place: int) -> Columns:
        demo, where = file["data"][demos[place]], f"{path}: {demos[place]}"
        missing = [key for key in observations if key not in demo["obs"]]
        if missing:
            raise DatasetError(f"{where} lacks the observation '{missing[0]}'")
        length = len(demo["actions"])
        columns: Columns = {"action": np.asarray(demo["actions"], np.float32)}
        if state:
            parts = [np.asarray(demo["obs"][key], np.float32).reshape(length, -1) for key in state]
            columns["observation.state"] = np.concatenate(parts, axis=1)
        for key in others:
            name = f"observation.{key}"
            columns[name] = np.asarray(demo["obs"][key]).reshape(-1, *features[name][1])
        for key in pictures:
            columns[_camera(key)] = _frames(demo["obs"][key], where)
        for key, name in single.items():
            values = np.asarray(demo[key]).reshape(-1, 1)
            columns[name] = values != 0 if key == "dones" else values.astype(np.float32)
        return columns

    environment = _environment(file["data"].attrs.get("env_args"))
    arguments = environment.get("env_kwargs")
    rate = arguments.get("control_freq") if isinstance(arguments, dict) else None
    robots = arguments.get("robots") if isinstance(arguments, dict) else None
    return Source(
        features=features,
        count=len(demos),
        read=read,
        fps=float(rate) if isinstance(rate, int | float) and rate > 0 else None,
        task=environment.get("env_name"),
        robot_type=", ".join(robots) if isinstance(robots, list) else robots,
        notes=("the simulator's own states are left out",) if "states" in first else (),
    )


def _number(name: str) -> tuple[int, str]:
    digits = re.search(r"\d+$", name)
    return (int(digits[0]) if digits else -1, name)


def _camera(key: str) -> str:
    return f"observation.images.{key.removesuffix('_image')}"


def _described(column: Any, path: Path) -> tuple[str, tuple[int, ...]]:
    return number_type(column.dtype, f"{path}: {column.name}"), column_shape(column.shape)


def _frames(stored: Any, where: str) -> Frames:
    scale = float_scale(stored[0])
    return Frames(len(stored), lambda i: as_picture(stored[i], scale, where))


def _environment(text: Any) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
