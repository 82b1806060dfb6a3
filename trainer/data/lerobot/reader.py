"""Reads LeRobot datasets, v3.0 and v2.1: the low-dimensional columns of all episodes as numpy arrays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from model_constructor import did_you_mean

from trainer.data.disk_cache import built_once, default_folder, file_digest
from trainer.data.errors import DatasetError
from trainer.data.lerobot.columns import read_table, to_numpy
from trainer.data.lerobot.episodes import EpisodeTable, read_episodes, read_tasks
from trainer.data.lerobot.info import STATS_PATH, TOLERANCE_S, DatasetInfo, Feature, read_info
from trainer.data.statistics import Stats, column_statistics

_CHECKED = ("index", "episode_index", "frame_index")
"""Bookkeeping that says of each row where it belongs; read along with every other."""

MAPPED_ABOVE = 256 * 2**20
"""Bytes of a column; a larger one lies on disk and is mapped."""

_ROWS_AT_ONCE = 2**18


class LeRobotReader:
    """One LeRobot dataset on disk.

    Opening it reads the metadata; columns are read when they are asked for, and once. Camera features
    are listed in `features` and have no columns; `cameras.open_camera` reads their frames.

    A column that takes more than `MAPPED_ABOVE` bytes is written to a file once, named by the content of the
    data files, and mapped: all processes share its pages, and the system takes them back where memory is
    short.

    Args:
        root: the dataset's folder.
        repo_id: its name on the hub, for the record.
        cache: folder for large columns; that of the user if not given.

    Attributes:
        info: what `meta/info.json` says.
        fps: frames per second.
        features: all features by name.
        episodes: the episode table, in the order of the frames.
        tasks: task texts, each at its `task_index`.

    Raises:
        DatasetError: the metadata is missing, damaged or contradicts itself, or the format version
            cannot be read.
    """

    def __init__(self, root: Path | str, repo_id: str | None = None, cache: Path | str | None = None) -> None:
        self.root = Path(root)
        self.repo_id = repo_id
        self.cache = default_folder() if cache is None else Path(cache)
        self.info: DatasetInfo = read_info(self.root)
        self.fps = self.info.fps
        self.features: dict[str, Feature] = self.info.features
        self.episodes: EpisodeTable = read_episodes(self.root, self.info)
        self.tasks: list[str] = read_tasks(self.root, self.info)
        self._columns: dict[str, np.ndarray] = {}
        self._places: np.ndarray | None = None  # of the rows in the files, where they are out of order

    def __len__(self) -> int:
        """Return the number of frames."""
        return self.info.total_frames

    @cached_property
    def stats(self) -> Stats:
        """The statistics that the dataset's writer stored; empty where there are none.

        Their quantiles are estimates with most writers; `statistics` computes exact ones.

        Raises:
            DatasetError: `meta/stats.json` is damaged.
        """
        path = self.root / STATS_PATH
        if not path.is_file():
            return {}
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            return {
                key: {
                    name: np.asarray(value, np.int64 if name == "count" else np.float64)
                    for name, value in one.items()
                }
                for key, one in raw.items()
            }
        except (AttributeError, TypeError, ValueError) as problem:
            raise DatasetError(f"{path}: these are not statistics: {problem}") from None

    def numeric_features(self, prefix: str = "") -> list[str]:
        """Return the low-dimensional features whose names begin with `prefix`, in the dataset's order.

        Raises:
            DatasetError: one of them has a dtype that is not known.
        """
        found = []
        for name, feature in self.features.items():
            if not name.startswith(prefix) or feature.is_frames or feature.dtype in ("string", "language"):
                continue
            self._numeric(name)
            found.append(name)
        return found

    def camera_features(self, prefix: str = "") -> list[str]:
        """Return the features made of frames whose names begin with `prefix`, in the dataset's order."""
        return [name for name, f in self.features.items() if f.is_frames and name.startswith(prefix)]

    def columns(self, keys: Sequence[str]) -> dict[str, np.ndarray]:
        """Return contiguous columns over all frames, in the order of the episodes.

        Bookkeeping columns (`timestamp`, `index`, …) are `(N,)`, every other feature is `(N, *shape)`,
        also where its shape is `[1]`.

        Args:
            keys: low-dimensional features.

        Raises:
            DatasetError: there is no such feature, it holds no numbers, a file is missing, truncated or
                damaged, its rows are not those of its episodes, or a number is NaN or infinite.
        """
        for key in keys:
            self._numeric(key)
        missing = [key for key in dict.fromkeys(keys) if key not in self._columns]
        if missing:
            self._read(list(dict.fromkeys((*missing, *_CHECKED))))
        return {key: self._columns[key] for key in keys}

    def statistics(self, keys: Sequence[str], rows: np.ndarray | None = None) -> Stats:
        """Return exact statistics of columns, over all frames or over `rows`."""
        columns = self.columns(keys)
        return {
            key: column_statistics(column if rows is None else column[rows])
            for key, column in columns.items()
        }

    def facts(self) -> dict[str, Any]:
        """Return what a person wants to know about the dataset, ready for JSON."""
        lengths = self.episodes.length
        return {
            "root": str(self.root),
            "repo_id": self.repo_id,
            "fps": self.fps,
            "episodes": len(self.episodes),
            "frames": len(self),
            "features": {name: feature.description() for name, feature in self.features.items()},
            "windows": {},
            "episode_lengths": {
                "min": int(lengths.min()),
                "mean": float(lengths.mean()),
                "max": int(lengths.max()),
            },
            "tasks": list(self.tasks),
            "robot_type": self.info.robot_type,
        }

    def _numeric(self, key: str) -> Feature:
        feature = self.features.get(key)
        if feature is None:
            hint = did_you_mean(key, self.features, "it has")
            raise DatasetError(f"{self.root}: the dataset has no feature '{key}'; {hint}")
        if not feature.is_numeric:
            raise DatasetError(f"{self.root}: {feature.why_not_numeric()}")
        return feature

    def _read(self, keys: Sequence[str]) -> None:
        """Read columns from all files; nothing is kept unless all of it is sound."""
        large = [key for key in keys if self.is_mapped(key)]
        total = len(self)
        read = {
            key: np.empty((total, *self.features[key].column_shape), self.features[key].dtype)
            for key in keys
            if key not in large
        }
        for rows, values in self._tables(list(read)):
            for key, column in values.items():
                read[key][rows] = column
        if (read["index"] != np.arange(total)).any():
            self._places = read["index"]
            order = np.argsort(self._places, kind="stable")
            read = {key: np.ascontiguousarray(column[order]) for key, column in read.items()}
        self._check_rows(read)
        for key, column in read.items():
            self._check_finite(key, column)
        self._columns.update(read)
        for key in large:
            self._columns[key] = self._mapped(key)

    def is_mapped(self, key: str) -> bool:
        """Tell whether a column lies on disk."""
        return self._bytes(key) > MAPPED_ABOVE

    def _bytes(self, key: str) -> int:
        feature = self.features[key]
        return len(self) * int(np.prod(feature.column_shape)) * np.dtype(feature.dtype).itemsize

    def _tables(self, keys: Sequence[str]) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
        """Yield, file by file, which rows they are and their columns."""
        row = 0
        for file in self.episodes.files:
            numbers = self.episodes.episode_index[file.episodes]
            try:
                table = read_table(file.path, keys)
            except DatasetError as problem:
                raise DatasetError(f"{problem}; {named_episodes(numbers)} should be in it") from None
            expected = int(self.episodes.length[file.episodes].sum())
            if table.num_rows != expected:
                raise DatasetError(
                    f"{file.path}: the file has {table.num_rows} rows, but {named_episodes(numbers)} should "
                    f"have {expected} in it"
                )
            yield (
                slice(row, row + expected),
                {key: to_numpy(table.column(key), self.features[key], file.path) for key in keys},
            )
            row += expected

    def _mapped(self, key: str) -> np.ndarray:
        """Return a column as an array on disk, writing it now if it is not there yet."""
        feature = self.features[key]
        shape = (len(self), *feature.column_shape)
        known = hashlib.blake2b(json.dumps([key, feature.dtype, shape]).encode(), digest_size=16)
        for file in self.episodes.files:
            known.update(file_digest(file.path, self.cache / "sources").encode())
        path = self.cache / f"column-{known.hexdigest()}.npy"
        with built_once(path, self._bytes(key), f"the numbers of '{key}'") as temporary:
            if temporary is not None:
                column = np.lib.format.open_memmap(temporary, "w+", np.dtype(feature.dtype), shape)
                for rows, values in self._tables([key]):
                    column[rows if self._places is None else self._places[rows]] = values[key]
                self._check_finite(key, column)
                column.flush()
        return np.asarray(np.load(path, mmap_mode="r"))

    def _check_rows(self, read: dict[str, np.ndarray]) -> None:
        """Hold the rows against the episode table."""
        lengths = self.episodes.length
        expected = {
            "index": np.arange(len(self)),
            "episode_index": np.repeat(self.episodes.episode_index, lengths),
            "frame_index": np.arange(len(self)) - np.repeat(self.episodes.start, lengths),
        }
        for key in _CHECKED:
            wrong = np.flatnonzero(read[key] != expected[key])
            if len(wrong):
                path, episode, frame = self.place(int(wrong[0]))
                raise DatasetError(
                    f"{path}: frame {frame} of episode {episode} has {key} {read[key][wrong[0]]}, "
                    f"it should have {expected[key][wrong[0]]}"
                )

    def _check_finite(self, key: str, column: np.ndarray) -> None:
        if column.dtype.kind != "f":
            return
        bad = np.concatenate(
            [
                begin
                + np.flatnonzero(~np.isfinite(column[begin : begin + _ROWS_AT_ONCE].reshape(rows, -1)).all(1))
                for begin in range(0, len(column), _ROWS_AT_ONCE)
                for rows in [min(_ROWS_AT_ONCE, len(column) - begin)]
            ]
        )
        if not len(bad):
            return
        path, episode, frame = self.place(int(bad[0]))
        values = column[bad[0]].reshape(-1)
        what = "NaN" if np.isnan(values).any() else "an infinite number"
        raise DatasetError(
            f"{path}: '{key}' has {what} in frame {frame} of episode {episode} "
            f"({len(bad)} such frame{'s' if len(bad) > 1 else ''} in the dataset)"
        )

    def check_timestamps(self) -> None:
        """Check that frame i of each episode is i/fps seconds old, on which windows and videos rely.

        Raises:
            DatasetError: a frame is further from its time than 0.1 ms (or what float32 can tell).
        """
        columns = self.columns(["timestamp", "frame_index"])
        expected = columns["frame_index"] / self.fps
        late = np.abs(columns["timestamp"] - expected)
        wrong = np.flatnonzero(late > TOLERANCE_S + np.spacing(expected.astype(np.float32)))
        if len(wrong):
            path, episode, frame = self.place(int(wrong[0]))
            raise DatasetError(
                f"{path}: frame {frame} of episode {episode} has timestamp "
                f"{columns['timestamp'][wrong[0]]:.4f} s, at {self.fps:g} frames/s it should be "
                f"{expected[wrong[0]]:.4f} s ({len(wrong)} such frame{'s' if len(wrong) > 1 else ''})"
            )

    def place(self, row: int) -> tuple[Path, int, int]:
        """Return data file, episode number and frame of a row."""
        position = int(np.searchsorted(self.episodes.start, row, side="right")) - 1
        path = next(file.path for file in self.episodes.files if position in file.episodes)
        return path, int(self.episodes.episode_index[position]), row - int(self.episodes.start[position])


def named_episodes(numbers: np.ndarray) -> str:
    """Say which episodes these are, in a few words."""
    if len(numbers) == 1:
        return f"episode {numbers[0]}"
    return f"the {len(numbers)} episodes from {numbers.min()} to {numbers.max()}"
