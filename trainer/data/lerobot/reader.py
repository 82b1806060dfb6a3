"""Reads LeRobot datasets, v3.0 and v2.1: the low-dimensional columns of all episodes as numpy arrays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from model_constructor import did_you_mean

from trainer.data.disk_cache import built_once, default_folder, file_digest
from trainer.data.errors import DatasetError
from trainer.data.lerobot.columns import read_table, to_numpy
from trainer.data.lerobot.episodes import (
    EpisodeTable,
    other_task,
    read_episode_stats,
    read_episodes,
    read_tasks,
)
from trainer.data.lerobot.info import STATS_PATH, TOLERANCE_S, DatasetInfo, Feature, read_info
from trainer.data.statistics import COMPARED, Stats

_CHECKED = ("index", "episode_index", "frame_index")
"""Bookkeeping that says of each row where it belongs; read along with every other."""

MAPPED_ABOVE = 256 * 2**20
"""Bytes of a column; a larger one lies on disk and is mapped."""

_ROWS_AT_ONCE = 2**18


class LeRobotReader:
    """One LeRobot dataset on disk.

    Opening it reads the metadata; columns are read when they are asked for, and once. Camera features
    are listed in `features` and have no columns; `cameras.open_camera` reads their frames.

    A column that takes more than `MAPPED_ABOVE` bytes over all frames is written to a file once, named by the
    content of the data files and the choice of episodes, and mapped: all processes share its pages, and the
    system takes them back where memory is short.

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
        self._columns: dict[tuple[bytes, str], np.ndarray] = {}

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

    def episode_stats(self, keys: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
        """Return the statistics that the writer stored of every episode, quantiles aside.

        Args:
            keys: features made of numbers.

        Returns:
            Feature → statistic → float64 `(E, D)`, episodes in the order of the table; without what is not
            there.

        Raises:
            DatasetError: they are damaged.
        """
        return read_episode_stats(self.root, self.info, keys, COMPARED)

    def numeric_features(self, prefix: str = "") -> list[str]:
        """Return the low-dimensional features whose names begin with `prefix`, in the dataset's order.

        Raises:
            DatasetError: one of them has a dtype that is not known.
        """
        found = []
        for name, feature in self.features.items():
            if not name.startswith(prefix) or feature.is_frames or feature.is_text:
                continue
            self._numeric(name)
            found.append(name)
        return found

    def camera_features(self, prefix: str = "") -> list[str]:
        """Return the features made of frames whose names begin with `prefix`, in the dataset's order."""
        return [name for name, f in self.features.items() if f.is_frames and name.startswith(prefix)]

    def columns(self, keys: Sequence[str], positions: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Return contiguous columns over the frames of chosen episodes, in the order of the episodes.

        Bookkeeping columns (`timestamp`, `index`, …) are `(N,)`, every other feature is `(N, *shape)`,
        also where its shape is `[1]`. Of episodes that are not chosen nothing is needed: their files may be
        missing, their numbers may be damaged.

        Args:
            keys: low-dimensional features.
            positions: the chosen episodes, as places in the episode table, ascending; all by default.

        Raises:
            DatasetError: there is no such feature, it holds no numbers, a file is missing, truncated or
                damaged, its rows are not those of its episodes, a number does not fit the type that is
                declared, or is NaN or infinite.
        """
        for key in keys:
            self._numeric(key)
        chosen = np.arange(len(self.episodes)) if positions is None else np.asarray(positions, np.int64)
        named = chosen.tobytes()
        missing = [key for key in dict.fromkeys(keys) if (named, key) not in self._columns]
        if missing:
            read = self._read(list(dict.fromkeys((*missing, *_CHECKED))), chosen)
            self._columns.update({(named, key): column for key, column in read.items()})
        return {key: self._columns[named, key] for key in keys}

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
            "made": self._made(),
        }

    def _made(self) -> dict[str, Any] | None:
        """Return how the dataset came about, as far as it was recorded or converted here."""
        made = self.info.raw.get("trainer")
        return {k: v for k, v in made.items() if k != "start_seeds"} if isinstance(made, dict) else None

    def _numeric(self, key: str) -> Feature:
        feature = self.features.get(key)
        if feature is None:
            hint = did_you_mean(key, self.features, "it has")
            raise DatasetError(f"{self.root}: the dataset has no feature '{key}'; {hint}")
        if not feature.is_numeric:
            raise DatasetError(f"{self.root}: {feature.why_not_numeric()}")
        return feature

    def _read(self, keys: Sequence[str], positions: np.ndarray) -> dict[str, np.ndarray]:
        """Read columns of chosen episodes from their files; nothing is kept unless all of it is sound."""
        rows = self.episodes.rows(positions)
        large = [key for key in keys if self._bytes(key, len(self)) > MAPPED_ABOVE]
        read = {
            key: np.empty((len(rows), *self.features[key].column_shape), self.features[key].dtype)
            for key in keys
            if key not in large
        }
        for place, values in self._tables(list(read), positions):
            for key, column in values.items():
                read[key][place] = column
        stored = read["index"]
        order = np.argsort(stored, kind="stable")
        in_order = bool((stored == rows).all())
        if not in_order and (stored[order] == rows).all():  # else the check below names the row that is wrong
            read = {key: np.ascontiguousarray(column[order]) for key, column in read.items()}
        self._check_rows(read, rows)
        for key, column in read.items():
            self._check_finite(key, column, rows)
        for key in large:
            read[key] = self._mapped(key, positions, rows, None if in_order else np.argsort(order))
        return read

    def _bytes(self, key: str, rows: int) -> int:
        feature = self.features[key]
        return rows * int(np.prod(feature.column_shape)) * np.dtype(feature.dtype).itemsize

    def _tables(
        self, keys: Sequence[str], positions: np.ndarray
    ) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
        """Yield, file by file, which of the chosen rows they are and their columns."""
        row = 0
        for file in self.episodes.files:
            wanted = np.intersect1d(file.episodes, positions)
            if not len(wanted):
                continue
            numbers = self.episodes.episode_index[wanted]
            try:
                table = read_table(file.path, list(dict.fromkeys((*keys, "episode_index", "frame_index"))))
            except DatasetError as problem:
                raise DatasetError(f"{problem}; {named_episodes(numbers)} should be in it") from None
            expected = int(self.episodes.length[wanted].sum())
            if len(wanted) < len(file.episodes):
                table = table.filter(pa.array(np.isin(_stored_episodes(table, file.path), numbers)))
                if table.num_rows != expected:
                    raise DatasetError(
                        f"{file.path}: the file has {table.num_rows} rows of {named_episodes(numbers)}, "
                        f"there should be {expected}"
                    )
            elif table.num_rows != expected:
                raise DatasetError(
                    f"{file.path}: the file has {table.num_rows} rows, but {named_episodes(numbers)} should "
                    f"have {expected} in it"
                )
            place = partial(row_place, table)
            yield (
                slice(row, row + expected),
                {key: to_numpy(table.column(key), self.features[key], file.path, place) for key in keys},
            )
            row += expected

    def _mapped(
        self, key: str, positions: np.ndarray, rows: np.ndarray, places: np.ndarray | None
    ) -> np.ndarray:
        """Return a column as an array on disk, writing it now if it is not there yet.

        Args:
            key: the feature.
            positions: the chosen episodes.
            rows: their rows in the whole dataset.
            places: where each row of the files goes, where they are out of order.
        """
        feature = self.features[key]
        shape = (len(rows), *feature.column_shape)
        known = hashlib.blake2b(json.dumps([key, feature.dtype, shape]).encode(), digest_size=16)
        known.update(positions.tobytes())
        for file in self.episodes.files:
            if np.isin(file.episodes, positions).any():
                known.update(file_digest(file.path, self.cache / "sources").encode())
        path = self.cache / f"column-{known.hexdigest()}.npy"
        with built_once(path, self._bytes(key, len(rows)), f"the numbers of '{key}'") as temporary:
            if temporary is not None:
                column = np.lib.format.open_memmap(temporary, "w+", np.dtype(feature.dtype), shape)
                for part, values in self._tables([key], positions):
                    column[part if places is None else places[part]] = values[key]
                self._check_finite(key, column, rows)
                column.flush()
        return np.asarray(np.load(path, mmap_mode="r"))

    def _check_rows(self, read: dict[str, np.ndarray], rows: np.ndarray) -> None:
        """Hold the rows against the episode table."""
        position = np.searchsorted(self.episodes.start, rows, side="right") - 1
        expected = {
            "index": rows,
            "episode_index": self.episodes.episode_index[position],
            "frame_index": rows - self.episodes.start[position],
        }
        for key in _CHECKED:
            wrong = np.flatnonzero(read[key] != expected[key])
            if len(wrong):
                path, episode, frame = self.place(int(rows[wrong[0]]))
                raise DatasetError(
                    f"{path}: frame {frame} of episode {episode} has {key} {read[key][wrong[0]]}, "
                    f"it should have {expected[key][wrong[0]]}"
                )

    def _check_finite(self, key: str, column: np.ndarray, rows: np.ndarray) -> None:
        if column.dtype.kind != "f":
            return
        parts = []
        for begin in range(0, len(column), _ROWS_AT_ONCE):
            part = column[begin : begin + _ROWS_AT_ONCE]
            parts.append(begin + np.flatnonzero(~np.isfinite(part.reshape(len(part), -1)).all(axis=1)))
        bad = np.concatenate(parts)
        if not len(bad):
            return
        path, episode, frame = self.place(int(rows[bad[0]]))
        values = column[bad[0]].reshape(-1)
        what = "NaN" if np.isnan(values).any() else "an infinite number"
        raise DatasetError(
            f"{path}: '{key}' has {what} in frame {frame} of episode {episode} "
            f"({len(bad)} such frame{'s' if len(bad) > 1 else ''} in the dataset)"
        )

    def check_timestamps(self, positions: np.ndarray | None = None) -> None:
        """Check that frame i of each episode is i/fps seconds old, on which windows and videos rely.

        Args:
            positions: the episodes, as places in the episode table, ascending; all by default.

        Raises:
            DatasetError: a frame is further from its time than 0.1 ms (or what float32 can tell).
        """
        columns = self.columns(["timestamp", "frame_index", "index"], positions)
        expected = columns["frame_index"] / self.fps
        late = np.abs(columns["timestamp"] - expected)
        wrong = np.flatnonzero(late > TOLERANCE_S + np.spacing(expected.astype(np.float32)))
        if len(wrong):
            path, episode, frame = self.place(int(columns["index"][wrong[0]]))
            raise DatasetError(
                f"{path}: frame {frame} of episode {episode} has timestamp "
                f"{columns['timestamp'][wrong[0]]:.4f} s, at {self.fps:g} frames/s it should be "
                f"{expected[wrong[0]]:.4f} s ({len(wrong)} such frame{'s' if len(wrong) > 1 else ''})"
            )

    def check_tasks(self, positions: np.ndarray | None = None) -> None:
        """Check that every row names a task of the dataset, and one that its episode has.

        Args:
            positions: the episodes, as places in the episode table, ascending; all by default.

        Raises:
            DatasetError: a `task_index` goes beyond the tasks, or contradicts the episode table.
        """
        chosen = np.arange(len(self.episodes)) if positions is None else positions
        index = self.columns(["task_index"], positions)["task_index"]
        if index.max() >= len(self.tasks) or index.min() < 0:
            raise DatasetError(
                f"{self.root}: task_index goes beyond the {len(self.tasks)} tasks of the dataset"
            )
        ends = np.cumsum(self.episodes.length[chosen])
        for position, own in zip(chosen.tolist(), np.split(index, ends[:-1]), strict=True):
            task = other_task(self.episodes, self.tasks, position, own)
            if task is not None:
                raise DatasetError(
                    f"{self.root}: the rows of episode {self.episodes.episode_index[position]} have the task "
                    f"'{task}', which the episode table does not give it"
                )

    def place(self, row: int) -> tuple[Path, int, int]:
        """Return data file, episode number and frame of a row."""
        position = int(np.searchsorted(self.episodes.start, row, side="right")) - 1
        path = next(file.path for file in self.episodes.files if position in file.episodes)
        return path, int(self.episodes.episode_index[position]), row - int(self.episodes.start[position])


def _stored_episodes(table: pa.Table, path: Path) -> np.ndarray:
    """Return the episode number of every row; NaN where it has none."""
    column = table.column("episode_index")
    if not pa.types.is_integer(column.type):
        return to_numpy(column, Feature("episode_index", "int64", (1,)), path)
    return np.asarray(column.to_numpy())


def row_place(table: pa.Table, row: int) -> str:
    """Say which frame of which episode a row of a data file is, by what it says of itself."""
    episode, frame = (table.column(name)[row].as_py() for name in ("episode_index", "frame_index"))
    return f"frame {frame} of episode {episode}"


def named_episodes(numbers: np.ndarray) -> str:
    """Say which episodes these are, in a few words."""
    if len(numbers) == 1:
        return f"episode {numbers[0]}"
    return f"the {len(numbers)} episodes from {numbers.min()} to {numbers.max()}"
