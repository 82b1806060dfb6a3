"""HDF5 episodes as samples of windows, a whole batch at a time; only the pictures wanted are read."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import torch
from torch import Tensor

from experiment_training.components.dataloader.hdf5_task import Field, TaskLayout
from trainer.data.casts import CastError, PictureCast, cast_numbers, value_range
from trainer.data.conversion.hdf5 import array
from trainer.data.conversion.source import picture_at
from trainer.data.errors import DatasetError
from trainer.data.frame_memory import FrameMemories
from trainer.data.statistics import Stats, normalization_statistics
from trainer.data.windows import Window, WindowGather
from trainer.templates import TrainingDataset
from trainer.utils.samples import Samples

StereoHalf = Literal["left", "right", "both"]

STATE = "observation.state"
ACTION = "action"

MAX_OPEN = 32
"""Files that a process holds open for their pictures."""


class EpisodicDataset(TrainingDataset):
    """One sample for every frame of every episode, an episode being a file.

    A sample holds `observation.state` (T, Dobs) and `action` (S, Dact), float32; of each camera
    `observation.images.<camera>`, uint8 RGB `(n, 3, H, W)`, or `(3, H, W)` where one frame is asked for; of
    each of them `<key>_is_pad`, bool; and `timestamp` (float32, seconds), `frame_index`, `episode_index`,
    `index`, `task_index` (int64) and `task` (text). Frames outside the episode are its first or last one,
    flagged in `_is_pad`.

    Args:
        paths: the files, whose order numbers the episodes.
        layout: what is in them.
        windows: what a sample holds; the names of cameras are those above.
        stereo_half: which half of a camera's pictures is taken, where two lie side by side.

    Attributes:
        image_keys: the features that are camera frames.

    Raises:
        DatasetError: a file is damaged or lacks a field, the lengths in a file disagree, a number is NaN or
            infinite, or a window is longer than every episode (`WindowError`).
    """

    concurrent_reads = True

    def __init__(
        self,
        paths: Sequence[Path],
        layout: TaskLayout,
        windows: Sequence[Window],
        stereo_half: StereoHalf,
    ) -> None:
        assert paths, "at least one episode"
        self.windows = tuple(windows)
        self._layout = layout
        self._keys = {f"observation.images.{name}": path for name, path in layout.cameras.items()}
        self.image_keys = tuple(window.key for window in windows if window.key in self._keys)
        self._paths = tuple(paths)
        self._ranges: dict[str, list[tuple[str, float, float]]] = {key: [] for key in self.image_keys}
        read = [self._read(path) for path in paths]
        for path, vectors in zip(paths, read, strict=True):
            for what, own, first in zip(("observation", "action"), vectors, read[0], strict=True):
                _check_widths(path, what, own, first, paths[0].name)
        self._columns = {
            STATE: np.concatenate([state.values for state, _ in read]),
            ACTION: np.concatenate([action.values for _, action in read]),
        }
        self._lengths = np.array([len(state.values) for state, _ in read], np.int64)
        self._starts = np.cumsum(self._lengths) - self._lengths
        self._gather = WindowGather(self._columns, self.windows, self._starts, self._lengths)
        self._episode = np.repeat(np.arange(len(paths)), self._lengths)
        self._frame = np.arange(len(self._episode)) - np.repeat(self._starts, self._lengths)
        files = OpenFiles(self._paths)
        self._cameras = {
            key: Hdf5Camera(
                files,
                self._keys[key],
                self._episode,
                self._frame,
                stereo_half,
                PictureCast.of(self._ranges[key]),
            )
            for key in self.image_keys
        }
        self.keeps_frames = bool(self._cameras)
        self._memories = FrameMemories(self._cameras)

    def __len__(self) -> int:
        """Return the number of samples, which is that of the frames of all episodes."""
        return len(self._episode)

    @property
    def episode_index(self) -> np.ndarray:
        """Number of every sample's episode, int64 `(N,)`."""
        return self._episode

    def __getitems__(self, indices: Sequence[int] | np.ndarray | Tensor) -> Samples:
        """Return the samples `indices` `(B,)` as one batch; each value has a leading dimension B.

        Raises:
            DatasetError: a picture is damaged; no other sample takes its place.
        """
        rows = np.asarray(indices, dtype=np.int64)
        gathered = self._gather(rows)
        for key in self.image_keys:
            wanted = gathered[key]
            frames = self._memories.read(key, wanted.reshape(-1))
            shape = self._cameras[key].shape
            gathered[key] = frames if wanted.shape[1] == 1 else frames.reshape(*wanted.shape, *shape)
        gathered["timestamp"] = (self._frame[rows] / self._layout.rate).astype(np.float32)
        gathered["frame_index"] = self._frame[rows]
        gathered["episode_index"] = self._episode[rows]
        gathered["index"] = rows.copy()
        gathered["task_index"] = np.zeros(len(rows), np.int64)
        batch: dict[str, Any] = {key: torch.from_numpy(values) for key, values in gathered.items()}
        batch["task"] = [self._layout.name] * len(rows)
        return Samples(batch)

    def expect(self, samples: np.ndarray, memory: int) -> None:
        """Take over which samples will be read, int64 `(L,)`, and keep decoded frames in `memory` bytes."""
        self._memories.expect(self.windows, self._gather, samples, memory)

    def statistics(self) -> Stats:
        """Return exact statistics over all frames of each number of the observation and of the action."""
        return {key: normalization_statistics(column) for key, column in self._columns.items()}

    def feature_values(self, feature: str) -> np.ndarray | None:
        """Return all values of a feature, `(N, D)`."""
        return self._columns.get(feature)

    def facts(self) -> dict[str, Any]:
        """Return what a person wants to know about the dataset, ready for JSON."""
        features = {
            key: {"dtype": "float32", "shape": [column.shape[1]], "names": None}
            for key, column in self._columns.items()
        }
        for key, camera in self._cameras.items():
            channels, height, width = camera.shape
            names = ["height", "width", "channels"]
            features[key] = {"dtype": "image", "shape": [height, width, channels], "names": names}
        return {
            "root": str(self._paths[0].parent),
            "repo_id": None,
            "fps": self._layout.rate,
            "episodes": len(self._paths),
            "frames": len(self),
            "features": features,
            "windows": {window.key: list(window.offsets) for window in self.windows},
            "episode_lengths": {
                "min": int(self._lengths.min()),
                "mean": float(self._lengths.mean()),
                "max": int(self._lengths.max()),
            },
            "tasks": [self._layout.name],
            "robot_type": self._layout.robot,
        }

    def _read(self, path: Path) -> tuple[_Vector, _Vector]:
        """Read observation and action of an episode; note what values its pictures of floats have."""
        with _opened(path) as file:
            state = _vector(file, self._layout.observation, path)
            action = _vector(file, self._layout.action, path)
            lengths = {"the observation": len(state.values), "the action": len(action.values)}
            for key in self.image_keys:
                stored = array(file, self._keys[key], str(path))
                lengths[self._keys[key]] = len(stored)
                if stored.ndim > 2 and stored.dtype.kind == "f" and stored.size:
                    self._ranges[key].append((f"{path}: {self._keys[key]}", *value_range(stored)))
        if len(set(lengths.values())) > 1:
            said = ", ".join(f"{what} has {length}" for what, length in lengths.items())
            raise DatasetError(f"{path}: the numbers of frames disagree: {said}")
        if not len(state.values):
            raise DatasetError(f"{path}: the episode is empty")
        for what, vector in (("the observation", state), ("the action", action)):
            bad = np.flatnonzero(~np.isfinite(vector.values).all(axis=1))
            if len(bad):
                raise DatasetError(f"{path}: {what} has NaN or an infinite number in frame {bad[0]}")
        return state, action


class OpenFiles:
    """The files that a process holds open, the least used of which makes way for a new one.

    Args:
        paths: of all episodes.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths
        self._begin()

    def _begin(self) -> None:
        self._handles: OrderedDict[int, h5py.File] = OrderedDict()
        self._lock = threading.Lock()
        self._owner = os.getpid()

    def __reduce__(self) -> tuple[type[OpenFiles], tuple[Sequence[Path]]]:
        return OpenFiles, (self.paths,)

    @contextlib.contextmanager
    def opened(self, episode: int) -> Iterator[h5py.File]:
        """Lend an open file; whoever else wants one waits, as HDF5 itself lets one thread work at a time."""
        if self._owner != os.getpid():
            # A forked process must neither use nor close what its parent has opened.
            _INHERITED.append(self._handles)
            self._begin()
        with self._lock:
            file = self._handles.pop(episode, None)
            if file is None:
                file = _opened(self.paths[episode])
                if len(self._handles) >= MAX_OPEN:
                    self._handles.popitem(last=False)[1].close()
            self._handles[episode] = file
            yield file


_INHERITED: list[Any] = []


class Hdf5Camera:
    """The pictures of one camera over the rows of all episodes.

    Args:
        files: the episodes.
        path: where the pictures are in a file.
        episode: of each row, int64 `(N,)`.
        frame: of each row in its episode, int64 `(N,)`.
        half: which half of a picture is taken, where two lie side by side.
        cast: how pixels that are no uint8 become it.

    Attributes:
        shape: (3, H, W).
        frames_per_keyframe: every picture stands alone.
    """

    frames_per_keyframe = 1.0

    def __init__(
        self,
        files: OpenFiles,
        path: str,
        episode: np.ndarray,
        frame: np.ndarray,
        half: StereoHalf,
        cast: PictureCast,
    ) -> None:
        self._files, self._path, self._half, self._cast = files, path, half, cast
        self._episode, self._frame = episode, frame
        self.shape = self._picture(0).shape

    def __len__(self) -> int:
        """Return N."""
        return len(self._episode)

    def together(self, rows: np.ndarray) -> np.ndarray:
        """Return `rows`: a picture needs no other."""
        return rows

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return the pictures of rows `(K,)`, uint8 `(K, 3, H, W)`; each is read and decoded once."""
        unique, which = np.unique(rows, return_inverse=True)
        frames = np.empty((len(unique), *self.shape), np.uint8)
        for place, row in enumerate(unique.tolist()):
            picture = self._picture(row)
            if picture.shape != self.shape:
                raise DatasetError(
                    f"{self._files.paths[int(self._episode[row])]}: frame {self._frame[row]} of {self._path} "
                    f"is {picture.shape[1]} × {picture.shape[2]} pixels, the first of all {self.shape[1]} × "
                    f"{self.shape[2]}"
                )
            frames[place] = picture
        return frames[which.reshape(-1)]

    def _picture(self, row: int) -> np.ndarray:
        """Return a picture, or the half of it that is taken, as uint8 RGB `(3, H, W)`."""
        episode, frame = int(self._episode[row]), int(self._frame[row])
        path = self._files.paths[episode]
        with self._files.opened(episode) as file:
            stored = array(file, self._path, str(path))
            content = picture_at(stored, frame, self._cast, f"{path}: frame {frame} of {self._path}")
        half = content.shape[1] // 2
        if self._half != "both":
            content = content[:, :half] if self._half == "left" else content[:, -half:]
        return np.ascontiguousarray(content.transpose(2, 0, 1))


def _opened(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as problem:
        raise DatasetError(f"{path}: the file is damaged and cannot be read as HDF5: {problem}") from None


@dataclass(frozen=True)
class _Vector:
    """The observation or the action of an episode, `(T, D)`, and how wide each of its fields is."""

    values: np.ndarray
    widths: dict[str, int]


def _vector(file: h5py.File, fields: Sequence[Field], path: Path) -> _Vector:
    """Join the fields of the observation or the action as float32."""
    parts = []
    for field in fields:
        stored = array(file, field.path, str(path))
        try:
            values = cast_numbers(np.asarray(stored[:]), "float32")
        except CastError as problem:
            raise DatasetError(f"{path}: {field.path}: {problem}, in frame {problem.row}") from None
        except (OSError, RuntimeError, TypeError, ValueError) as problem:
            raise DatasetError(f"{path}: {field.path} cannot be read as numbers: {problem}") from None
        parts.append(field.take(values, str(path)))
    lengths = {field.path: len(part) for field, part in zip(fields, parts, strict=True)}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{what} has {length}" for what, length in lengths.items())
        raise DatasetError(f"{path}: the numbers of frames disagree: {said}")
    widths = {field.path: part.shape[1] for field, part in zip(fields, parts, strict=True)}
    return _Vector(np.concatenate(parts, axis=1), widths)


def _check_widths(path: Path, what: str, own: _Vector, first: _Vector, name: str) -> None:
    """Hold the fields of an episode against those of the first: a field that grows would move the others."""
    if own.values.shape[1] != first.values.shape[1]:
        raise DatasetError(
            f"{path}: the {what} has {own.values.shape[1]} numbers, in {name} {first.values.shape[1]}"
        )
    for field, width in own.widths.items():
        if width != first.widths[field]:
            raise DatasetError(f"{path}: {field} has {width} columns, in {name} {first.widths[field]}")
