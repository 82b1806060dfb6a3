"""`meta/info.json` of a LeRobot dataset: version, rate, features and where the files lie."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.errors import DatasetError

VERSION = "v3.0"
READABLE_VERSIONS = ("v2.1", VERSION)

INFO_PATH = "meta/info.json"
STATS_PATH = "meta/stats.json"
TASKS_PATH = "meta/tasks.parquet"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"

FILES_PER_CHUNK = 1000
"""Files in a folder of data or videos, as this project writes them."""

BOOKKEEPING: dict[str, str] = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
"""The columns that every dataset has beside its own features, and their types; one number per frame."""

TOLERANCE_S = 1e-4
"""How far a wanted time may lie from a recorded frame, in seconds."""

NUMERIC: tuple[str, ...] = ("float16", "float32", "float64", "bool")
NUMERIC += ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_FRAMES = ("image", "video")
_TEXT = ("string", "language")


@dataclass(frozen=True)
class Feature:
    """One feature of a dataset.

    Attributes:
        name: its key, such as `observation.state`.
        dtype: a numpy type name, or `string`, `language`, `image`, `video`, or something not known.
        shape: its shape in one frame.
        names: the names of its dimensions, as the dataset has them.
        info: what the dataset says about the video of a camera, as it says it.
        problem: why it cannot be read, where its description is wrong; whoever asks for it is told.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    names: Any = None
    info: Mapping[str, Any] | None = None
    problem: str | None = None

    @property
    def is_numeric(self) -> bool:
        """Whether it is a low-dimensional column of numbers."""
        return self.dtype in NUMERIC and self.problem is None

    @property
    def is_frames(self) -> bool:
        """Whether it is made of camera frames."""
        return self.dtype in _FRAMES and self.problem is None

    @property
    def is_text(self) -> bool:
        """Whether it is made of words."""
        return self.dtype in _TEXT and self.problem is None

    @property
    def column_shape(self) -> tuple[int, ...]:
        """Shape of one row of its column: bookkeeping is one plain number, all else keeps its shape."""
        return () if self.name in BOOKKEEPING else self.shape

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of a camera's frame in a batch, in whichever order the dataset has it.

        The axis of 3 holds the colours, whatever the names say: a picture is not 3 pixels high. Where both
        ends are 3 the names decide, and without them it is the last.

        Raises:
            DatasetError: it has no three dimensions, or not three channels of colour.
        """
        named = f" (named {', '.join(map(str, self.names))})" if isinstance(self.names, list | tuple) else ""
        if len(self.shape) != 3:
            raise DatasetError(
                f"camera '{self.name}' has shape {list(self.shape)}{named}, not height, width, channels"
            )
        about = self.info or {}
        if about.get("video.is_depth_map") or about.get("is_depth_map"):
            raise DatasetError(
                f"camera '{self.name}' holds depth frames; colour frames are read; leave it out"
            )
        ends = (self.shape[0], self.shape[2])
        if 3 not in ends:
            channels = self.shape[0] if self._names_channels_first() else self.shape[2]
            raise DatasetError(
                f"camera '{self.name}' has shape {list(self.shape)}{named}, that is {channels}-channel "
                "frames; colour frames are read; leave it out"
            )
        first = self._names_channels_first() if ends == (3, 3) else ends[0] == 3
        height, width = self.shape[1:] if first else self.shape[:2]
        return 3, height, width

    def _names_channels_first(self) -> bool:
        names = self.names if isinstance(self.names, list | tuple) and self.names else [""]
        return str(names[0]).lower().startswith("c")

    def description(self) -> dict[str, Any]:
        """Return it as `info.json` has it."""
        described = {"dtype": self.dtype, "shape": list(self.shape), "names": self.names}
        return described if self.info is None else {**described, "info": dict(self.info)}

    def why_not_numeric(self) -> str:
        """Say why there is no column of numbers for this feature."""
        if self.problem is not None:
            return self.problem
        if self.is_frames:
            return f"feature '{self.name}' holds {self.dtype} frames, not numbers"
        if self.dtype in _TEXT:
            return f"feature '{self.name}' holds text ({self.dtype}), not numbers; leave it out"
        return f"feature '{self.name}' has dtype '{self.dtype}', which is not known"


@dataclass(frozen=True)
class DatasetInfo:
    """What `meta/info.json` says, checked.

    Attributes:
        raw: the file as it is, unknown keys included.
        version: `v3.0` or `v2.1`.
        fps: frames per second.
        features: all features by name, in the file's order.
        total_episodes: number of episodes.
        total_frames: number of frames in all of them.
        robot_type: the robot, if named.
    """

    raw: dict[str, Any]
    version: str
    fps: float
    features: dict[str, Feature]
    total_episodes: int
    total_frames: int
    robot_type: str | None

    @property
    def splits(self) -> dict[str, Any]:
        """Name of a split → its episodes: LeRobot's range, or the numbers of a converted mask."""
        own = self.raw.get("trainer")
        told = (self.raw.get("splits"), own.get("splits") if isinstance(own, dict) else None)
        return {str(name): part for one in told if isinstance(one, dict) for name, part in one.items()}

    @property
    def chunks_size(self) -> int:
        """Episodes in a folder of format v2.1."""
        return int(self.raw.get("chunks_size", FILES_PER_CHUNK))

    def data_path(self, **place: int) -> str:
        """Return the path of a data file below the root; `place` fills the template of this version.

        Raises:
            DatasetError: the template has other places to fill.
        """
        return _filled("data_path", str(self.raw["data_path"]), place)

    def video_path(self, key: str, **place: int) -> str:
        """Return the path of a video of camera `key` below the root.

        Raises:
            DatasetError: it says of no video where it lies, or the template has other places to fill.
        """
        template = self.raw.get("video_path")
        if not template:
            raise DatasetError(f"info.json has no video_path, so the videos of '{key}' cannot be found")
        return _filled("video_path", str(template), {"video_key": key, **place})


def read_info(root: Path) -> DatasetInfo:
    """Read and check `meta/info.json`.

    Raises:
        DatasetError: the folder or the file is missing or damaged, the version cannot be read, or a
            needed entry is missing or nonsense.
    """
    if not root.is_dir():
        raise DatasetError(f"{root}: there is no such folder")
    path = root / INFO_PATH
    if not path.is_file():
        raise DatasetError(f"{root}: there is no {INFO_PATH} in it, so it is not a LeRobot dataset")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as problem:
        raise DatasetError(f"{path}: this is not JSON: {problem}") from None
    if not isinstance(raw, dict):
        raise DatasetError(f"{path}: a JSON object is expected, this is a {type(raw).__name__}")
    version = raw.get("codebase_version")
    _check_version(path, version)
    for key in ("fps", "features", "total_episodes", "total_frames", "data_path"):
        if raw.get(key) is None:
            raise DatasetError(f"{path}: the entry '{key}' is missing")
    fps = raw["fps"]
    if not _is_number(fps) or not math.isfinite(fps) or fps <= 0:
        raise DatasetError(f"{path}: fps must be a number above 0, it is {fps!r}")
    for key in ("total_episodes", "total_frames"):
        if not _is_number(raw[key]) or not math.isfinite(raw[key]) or raw[key] != int(raw[key]):
            raise DatasetError(f"{path}: {key} must be a whole number, it is {raw[key]!r}")
        if raw[key] < 1:
            raise DatasetError(f"{path}: the dataset is empty, {key} is {raw[key]!r}")
    chunk = raw.get("chunks_size", FILES_PER_CHUNK)
    if version == "v2.1" and (not isinstance(chunk, int) or isinstance(chunk, bool) or chunk < 1):
        raise DatasetError(f"{path}: chunks_size must be a whole number above 0, it is {chunk!r}")
    robot = raw.get("robot_type")
    return DatasetInfo(
        raw=raw,
        version=str(version),
        fps=fps,
        features=_features(path, raw["features"]),
        total_episodes=int(raw["total_episodes"]),
        total_frames=int(raw["total_frames"]),
        robot_type=None if robot is None else str(robot),
    )


def _check_version(path: Path, version: Any) -> None:
    if version in READABLE_VERSIONS:
        return
    readable = " and ".join(READABLE_VERSIONS)
    number = str(version).removeprefix("v").split(".")
    if not all(part.isdigit() for part in number):
        raise DatasetError(f"{path}: codebase_version is {version!r}; {readable} can be read")
    newest = [int(part) for part in VERSION.removeprefix("v").split(".")]
    age = "newer" if [int(part) for part in number] > newest else "older"
    raise DatasetError(
        f"{path}: the dataset has format {version}, which is {age} than what can be read ({readable})"
    )


def _features(path: Path, raw: Any) -> dict[str, Feature]:
    if not isinstance(raw, dict):
        raise DatasetError(f"{path}: features must be an object, it is a {type(raw).__name__}")
    features = {name: _feature(path, name, entry) for name, entry in raw.items()}
    for name, dtype in BOOKKEEPING.items():
        if name not in features:
            wrong = next((feature.problem for feature in features.values() if feature.problem), None)
            missing = f"the feature '{name}', which every dataset has, is missing"
            raise DatasetError(f"{path}: {wrong or missing}")
        feature = features[name]
        if not feature.is_numeric:
            raise DatasetError(f"{path}: {feature.why_not_numeric()}, but every dataset has numbers there")
        kinds = "f" if dtype == "float32" else "iu"
        if np.dtype(feature.dtype).kind not in kinds:
            raise DatasetError(f"{path}: '{name}' is declared as {feature.dtype}, it has to be {dtype}")
    return features


def _feature(path: Path, name: str, entry: Any) -> Feature:
    """Return a feature; a description that is wrong is kept until somebody asks for that feature."""
    shape = entry.get("shape") if isinstance(entry, dict) else None
    problem = None
    if not isinstance(entry, dict) or shape is None or "dtype" not in entry:
        problem = f"feature '{name}' needs a dtype and a shape"
    elif not isinstance(shape, list) or not all(type(n) is int and n > 0 for n in shape):
        problem = f"the shape of feature '{name}' is {shape!r}, not sizes above 0"
    if problem is not None:
        dtype = entry.get("dtype") if isinstance(entry, dict) else None
        return Feature(name, str(dtype), (), problem=problem)
    assert isinstance(shape, list)
    about = entry.get("info")
    return Feature(
        name,
        str(entry["dtype"]),
        tuple(shape),
        entry.get("names"),
        about if isinstance(about, dict) else None,
    )


def _filled(entry: str, template: str, place: Mapping[str, Any]) -> str:
    try:
        return template.format(**place)
    except (AttributeError, IndexError, KeyError, ValueError):
        known = ", ".join(place)
        raise DatasetError(f"info.json: '{template}' is no {entry}; it may name {known}") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
