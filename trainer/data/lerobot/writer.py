"""Writes LeRobot v3.0 datasets, columns and videos; they exist whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainer.data.casts import CastError, cast_numbers
from trainer.data.errors import DatasetError
from trainer.data.lerobot.columns import read_table, to_numpy
from trainer.data.lerobot.info import (
    BOOKKEEPING,
    DATA_PATH,
    EPISODES_PATH,
    FILES_PER_CHUNK,
    INFO_PATH,
    NUMERIC,
    STATS_PATH,
    TASKS_PATH,
    VERSION,
    VIDEO_PATH,
    Feature,
)
from trainer.data.lerobot.schema import data_array, data_schema, episodes_schema, tasks_table
from trainer.data.lerobot.video_files import VideoFiles
from trainer.data.statistics import column_statistics
from trainer.utils.files import whole_folder, write_json

DATA_FILE_MB = 100
VIDEO_FILE_MB = 200
_EPISODES_PER_GROUP = 10


class LeRobotWriter:
    """Writes a dataset episode by episode; a context manager.

    The dataset is built in `<root>.incomplete` and takes the name `root` when the block ends without an
    exception; until then, and after an exception or a kill, there is no `root`. Equal input gives equal
    bytes.

    Args:
        root: the folder to make; it must not exist, unless `replace`.
        fps: frames per second.
        features: name → `{"dtype", "shape", "names"}` of each feature to be written: numbers, or cameras,
            whose dtype is `video` and shape (H, W, 3). Bookkeeping (`timestamp`, `index`, …) is added by
            itself.
        replace: an older dataset at `root` makes way when the new one is complete.
        robot_type: the robot's name.
        metadata: anything JSON can hold that should stand in `info.json`, under the key `trainer`, as it is
            when the block ends.
        data_file_mb: a data file is closed before it grows beyond this many megabytes, counted before
            compression.
        video_file_mb: the same for the video files of each camera.
        video_encoder: PyAV's name of the encoder, such as `libx264`; by default AV1 where there is one. All
            write yuv420p.
        video_options: options of the encoder; by default a keyframe in every second frame and quality 30.

    Raises:
        DatasetError: `root` exists, a feature cannot be written, or the block ends without an episode.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        fps: int | float,
        features: Mapping[str, Mapping[str, Any]],
        replace: bool = False,
        robot_type: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        data_file_mb: float = DATA_FILE_MB,
        video_file_mb: float = VIDEO_FILE_MB,
        video_encoder: str | None = None,
        video_options: Mapping[str, str] | None = None,
    ) -> None:
        self.root = Path(root)
        if fps <= 0:
            raise DatasetError(f"{self.root}: fps must be above 0, it is {fps}")
        self._fps = fps
        self._own = {name: _writable(self.root, name, entry) for name, entry in features.items()}
        if not self._own:
            raise DatasetError(f"{self.root}: a dataset needs at least one feature")
        bookkeeping = {name: Feature(name, dtype, (1,)) for name, dtype in BOOKKEEPING.items()}
        self._features = self._own | bookkeeping
        self._schema = data_schema(self._features)
        self._replaces = replace
        self._robot_type = robot_type
        self._metadata = metadata
        self._data_file_mb = data_file_mb
        self._video_file_mb = video_file_mb
        self._video_encoder = video_encoder
        self._video_options = video_options
        self._videos: dict[str, VideoFiles] = {}
        self._damaged = False
        self._tasks: dict[str, int] = {}
        self._episodes: list[dict[str, Any]] = []
        self._frames = 0
        self._file: pq.ParquetWriter | None = None
        self._files: list[Path] = []
        self._bytes_in_file = 0
        self._stack = ExitStack()
        self._folder: Path | None = None

    def __enter__(self) -> LeRobotWriter:
        if self.root.exists() and not self._replaces:
            raise DatasetError(f"{self.root}: it exists already; give another name or remove it")
        self._folder = folder = self._stack.enter_context(whole_folder(self.root, self._replaces))
        self._videos = {
            name: VideoFiles(
                folder, feature, self._fps, self._video_encoder, self._video_options, self._video_file_mb
            )
            for name, feature in self._own.items()
            if feature.is_frames
        }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._close_files()
            self._stack.__exit__(kind, value, trace)
            return
        with self._stack:  # so that a failure in here too leaves nothing behind
            self._finish()

    def add_episode(self, columns: Mapping[str, np.ndarray | Sequence[np.ndarray]], task: str) -> None:
        """Append one episode.

        Args:
            columns: for each feature an array `(T, *shape)`, the same T ≥ 1 for all. The frames of a camera
                are uint8, and may be any sequence that yields them one at a time.
            task: what the robot is doing, in words.

        Raises:
            DatasetError: a feature is missing or not known, the shapes or lengths disagree, a type does
                not fit, a number is NaN or infinite, or the episode is empty.
        """
        assert self._folder is not None, "the writer is used as a context manager"
        if self._damaged:
            raise DatasetError(f"{self.root}: the episode before failed half-way; the dataset is lost")
        number = len(self._episodes)
        values, frames, length = self._checked(columns, number)
        self._damaged = True
        videos: dict[str, Any] = {}
        for name, files in self._videos.items():
            videos |= files.add(frames[name], f"{self.root}: episode {number}")
        task_index = self._tasks.setdefault(task, len(self._tasks))
        frame = np.arange(length)
        values |= {
            "timestamp": (frame / self._fps).astype(np.float32),
            "frame_index": frame,
            "episode_index": np.full(length, number),
            "index": frame + self._frames,
            "task_index": np.full(length, task_index),
        }
        arrays = [data_array(self._features[name], values[name]) for name in self._schema.names]
        table = pa.table(arrays, schema=self._schema)
        self._write(table)
        place = len(self._files) - 1
        row: dict[str, Any] = {
            "episode_index": number,
            "tasks": [task],
            "length": length,
            "data/chunk_index": place // FILES_PER_CHUNK,
            "data/file_index": place % FILES_PER_CHUNK,
            "dataset_from_index": self._frames,
            "dataset_to_index": self._frames + length,
            **videos,
        }
        for name, column in values.items():
            shaped = _with_shape(column, self._features[name])
            for statistic, array in column_statistics(shaped).items():
                row[f"stats/{name}/{statistic}"] = array.tolist()
        self._episodes.append(row)
        self._frames += length
        self._damaged = False

    def _checked(
        self, columns: Mapping[str, np.ndarray | Sequence[np.ndarray]], number: int
    ) -> tuple[dict[str, np.ndarray], dict[str, Sequence[np.ndarray]], int]:
        """Return the columns of numbers, the frames of the cameras and the length of an episode."""
        where = f"{self.root}: episode {number}"
        for name in columns:
            if name not in self._own:
                raise DatasetError(f"{where} has '{name}', which is not among the features of the dataset")
        values: dict[str, np.ndarray] = {}
        frames: dict[str, Sequence[np.ndarray]] = {}
        for name, feature in self._own.items():
            if name not in columns:
                raise DatasetError(f"{where} lacks the feature '{name}'")
            if feature.is_frames:
                frames[name] = columns[name]  # type: ignore[assignment]  # an array is a sequence of frames
                continue
            array = np.asarray(columns[name])
            if array.shape[1:] != feature.shape or array.ndim == 0:
                wanted = "(T, " + ", ".join(map(str, feature.shape)) + ")"
                raise DatasetError(f"{where}: '{name}' has shape {array.shape}, it should be {wanted}")
            if not np.can_cast(array.dtype, feature.dtype, "same_kind"):
                raise DatasetError(f"{where}: '{name}' is {array.dtype}, which does not fit {feature.dtype}")
            try:
                array = cast_numbers(array, feature.dtype)
            except CastError as problem:
                raise DatasetError(f"{where}: '{name}' in frame {problem.row}: {problem}") from None
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                frame = int(np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))[0])
                raise DatasetError(f"{where}: '{name}' has NaN or an infinite number in frame {frame}")
            values[name] = array
        lengths = {name: len(array) for name, array in (values | frames).items()}
        if len(set(lengths.values())) > 1:
            raise DatasetError(f"{where}: the lengths of the columns disagree: {lengths}")
        if 0 in lengths.values():
            raise DatasetError(f"{where} is empty")
        return values, frames, next(iter(lengths.values()))

    def _write(self, table: pa.Table) -> None:
        """Append an episode as one row group, in a new file where this one would grow too large."""
        assert self._folder is not None
        full = self._bytes_in_file + table.nbytes >= self._data_file_mb * 2**20
        if self._file is None or (full and self._bytes_in_file):
            self._close_file()
            place = len(self._files)
            path = self._folder / DATA_PATH.format(
                chunk_index=place // FILES_PER_CHUNK, file_index=place % FILES_PER_CHUNK
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = pq.ParquetWriter(path, self._schema, compression="snappy")
            self._files.append(path)
            self._bytes_in_file = 0
        self._file.write_table(table, row_group_size=table.num_rows)
        self._bytes_in_file += table.nbytes

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _close_files(self) -> None:
        self._close_file()
        for files in self._videos.values():
            files.close()

    def _finish(self) -> None:
        self._close_files()
        assert self._folder is not None
        if not self._episodes:
            raise DatasetError(f"{self.root}: no episode was added")
        if self._damaged:
            raise DatasetError(f"{self.root}: an episode failed half-way; the dataset is lost")
        (self._folder / "meta").mkdir()
        pq.write_table(tasks_table(list(self._tasks)), self._folder / TASKS_PATH)
        self._write_episodes()
        write_json(self._folder / STATS_PATH, self._statistics())
        write_json(self._folder / INFO_PATH, self._info())

    def _write_episodes(self) -> None:
        assert self._folder is not None
        for row in self._episodes:
            # All rows are in one file: about 10 kB each, a million episodes would be the first to notice.
            row["meta/episodes/chunk_index"] = row["meta/episodes/file_index"] = 0
        table = pa.Table.from_pylist(self._episodes, schema=episodes_schema(self._features))
        path = self._folder / EPISODES_PATH.format(chunk_index=0, file_index=0)
        path.parent.mkdir(parents=True)
        pq.write_table(table, path, row_group_size=_EPISODES_PER_GROUP)

    def _statistics(self) -> dict[str, dict[str, Any]]:
        """Statistics of the whole dataset, read back one column at a time, so that memory stays small."""
        stats = {}
        for name, feature in self._features.items():
            if feature.is_frames:
                found = self._videos[name].statistics.result()
                stats[name] = {key: array.tolist() for key, array in found.items()}
                continue
            parts = [to_numpy(read_table(path, [name]).column(name), feature, path) for path in self._files]
            column = _with_shape(np.concatenate(parts), feature)
            stats[name] = {key: array.tolist() for key, array in column_statistics(column).items()}
        return stats

    def _info(self) -> dict[str, Any]:
        episodes = len(self._episodes)
        features = {name: feature.description() for name, feature in self._features.items()}
        for name, files in self._videos.items():
            features[name]["info"] = files.info()
        info: dict[str, Any] = {
            "codebase_version": VERSION,
            "robot_type": self._robot_type,
            "total_episodes": episodes,
            "total_frames": self._frames,
            "total_tasks": len(self._tasks),
            "chunks_size": FILES_PER_CHUNK,
            "data_files_size_in_mb": self._data_file_mb,
            "video_files_size_in_mb": self._video_file_mb,
            "fps": self._fps,
            "splits": {"train": f"0:{episodes}"},
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH if self._videos else None,
            "features": features,
        }
        if self._metadata is not None:
            info["trainer"] = dict(self._metadata)
        return info


def _writable(root: Path, name: str, entry: Mapping[str, Any]) -> Feature:
    if name in BOOKKEEPING:
        raise DatasetError(f"{root}: the feature '{name}' is written by itself; leave it out")
    if "/" in name:
        raise DatasetError(f"{root}: the name of feature '{name}' has a slash, which LeRobot forbids")
    feature = Feature(name, str(entry["dtype"]), tuple(entry["shape"]), entry.get("names"))
    if feature.dtype == "video":
        return _writable_camera(root, feature)
    if feature.dtype not in NUMERIC:
        raise DatasetError(f"{root}: {feature.why_not_numeric()}")
    if not 1 <= len(feature.shape) <= 5:
        raise DatasetError(
            f"{root}: feature '{name}' has {len(feature.shape)} dimensions; 1 to 5 can be written"
        )
    return feature


def _writable_camera(root: Path, feature: Feature) -> Feature:
    if len(feature.shape) != 3 or feature.shape[2] != 3:
        raise DatasetError(
            f"{root}: camera '{feature.name}' has shape {list(feature.shape)}, it should be height, width, 3"
        )
    if feature.shape[0] % 2 or feature.shape[1] % 2:
        raise DatasetError(
            f"{root}: the frames of '{feature.name}' are {feature.shape[0]} × {feature.shape[1]} pixels; a "
            f"video needs even numbers, so cut or pad them"
        )
    return replace(feature, names=list(feature.names or ("height", "width", "channels")))


def _with_shape(values: np.ndarray, feature: Feature) -> np.ndarray:
    """Give bookkeeping, which is plain numbers, the shape (1,) that its statistics have."""
    return values.reshape(len(values), *feature.shape)
