"""robomimic: one HDF5 file with `data/demo_<n>/{actions, obs/<key>, rewards, dones}`."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.casts import is_picture
from trainer.data.conversion.hdf5 import array, arrays, is_group, opened
from trainer.data.conversion.source import (
    Source,
    Taken,
    column_shape,
    is_numbers,
    number_type,
    picture_shape,
    without_clashes,
)
from trainer.data.errors import DatasetError

_STATE = re.compile(r"robot\d+_(eef_pos|eef_quat|gripper_qpos)")
_SINGLE = {"rewards": ("next.reward", "float32"), "dones": ("next.done", "bool")}


def open_robomimic(path: Path) -> Source:
    """Open a robomimic file.

    `actions` becomes `action`; position, orientation and gripper of the robots, joined in the file's order,
    become `observation.state` with names of their numbers, unless the file has an observation `state`;
    pictures become `observation.images.<name>` (without `_image`), every other observation
    `observation.<key>`, those in groups too (`a/b` as `observation.a.b`); `rewards` and `dones` become
    `next.reward` and `next.done`. The parts of `mask` become the splits.

    Raises:
        DatasetError: h5py is not installed, or the file is damaged or not such a file.
    """
    file = opened(path)
    data = file.get("data")
    demos = sorted((key for key in data if is_group(data[key])), key=_number) if is_group(data) else []
    if not demos:
        raise DatasetError(f"{path}: there is no data/demo_… in it, so it is not a robomimic file")

    def where(place: int) -> str:
        return f"{path}: {demos[place]}"

    def load(place: int, key: str) -> Any:
        return array(data[demos[place]], key, where(place))

    for place in range(len(demos)):
        load(place, "actions")
        if not is_group(data[demos[place]].get("obs")):
            raise DatasetError(f"{where(place)}: there is no obs in it, so no observation")
    first = data[demos[0]]
    observations = dict(arrays(first["obs"]))
    unusable = [key for key, stored in observations.items() if not is_numbers(stored)]
    usable = {key: stored for key, stored in observations.items() if key not in unusable}
    features = [_taken("action", "actions", load(0, "actions"), path)]
    state = [] if "state" in usable else [key for key in usable if _STATE.fullmatch(key)]
    if state:
        widths = [int(np.prod(usable[key].shape[1:], dtype=np.int64)) for key in state]
        names = [f"{k}_{i}" if w > 1 else k for k, w in zip(state, widths, strict=True) for i in range(w)]
        keys = tuple(f"obs/{key}" for key in state)
        features.append(Taken("observation.state", "float32", (len(names),), keys, tuple(names)))
    for key, stored in usable.items():
        if is_picture(stored.shape[1:]):
            name = key if key.removesuffix("_image") in usable else key.removesuffix("_image")
            feature = f"observation.images.{name.replace('/', '.')}"
            features.append(Taken(feature, "video", picture_shape(stored.shape[1:]), (f"obs/{key}",)))
        elif key not in state:
            features.append(_taken(f"observation.{key.replace('/', '.')}", f"obs/{key}", stored, path))
    features += [Taken(name, dtype, (1,), (key,)) for key, (name, dtype) in _SINGLE.items() if key in first]
    splits, lost = _splits(file, demos)
    extra = sorted({key for demo in demos for key, _ in arrays(data[demo]["obs"]) if key not in observations})
    notes = {
        "the simulator's own states are left out": "states" in first,
        "next_obs is left out: it is obs, one frame later": "next_obs" in first,
        f"observations that are not numbers for every frame are left out: {', '.join(unusable)}": unusable,
        f"observations that {demos[0]} does not have are left out: {', '.join(extra)}": extra,
        f"mask names demonstrations that are not in the file: {', '.join(lost)}": lost,
    }
    environment = _environment(data.attrs.get("env_args"))
    arguments = environment.get("env_kwargs")
    arguments = arguments if isinstance(arguments, dict) else {}
    rate, robots = arguments.get("control_freq"), arguments.get("robots")
    known = isinstance(rate, int | float) and not isinstance(rate, bool) and 0 < rate < math.inf
    return Source(
        features=without_clashes(features, str(path)),
        count=len(demos),
        load=load,
        where=where,
        close=file.close,
        fps=float(rate) if known else None,  # type: ignore[arg-type]
        task=environment.get("env_name"),
        robot_type=", ".join(map(str, robots)) if isinstance(robots, list) else robots,
        splits=splits,
        notes=tuple(note for note, holds in notes.items() if holds),
    )


def _splits(file: Any, demos: list[str]) -> tuple[dict[str, list[int]], list[str]]:
    """Return the places of the demonstrations of each part of `mask`, and those that it names in vain."""
    places = {name: place for place, name in enumerate(demos)}
    splits: dict[str, list[int]] = {}
    lost: list[str] = []
    for key, stored in arrays(file["mask"]) if is_group(file.get("mask")) else ():
        named = [n.decode() if isinstance(n, bytes) else str(n) for n in np.asarray(stored[()]).reshape(-1)]
        splits[key] = sorted(places[name] for name in named if name in places)
        lost += [name for name in named if name not in places and name not in lost]
    return splits, lost


def _number(name: str) -> tuple[int, str]:
    digits = re.search(r"\d+$", name)
    return (int(digits[0]) if digits else -1, name)


def _taken(name: str, key: str, stored: Any, path: Path) -> Taken:
    return Taken(
        name, number_type(stored.dtype, f"{path}: {stored.name}"), column_shape(stored.shape), (key,)
    )


def _environment(text: Any) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
