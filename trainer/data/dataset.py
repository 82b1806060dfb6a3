"""A LeRobot dataset as samples of windows, gathered a whole batch at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.data.casts import CastError, cast_numbers
from trainer.data.chosen_episodes import Episodes, chosen_episodes
from trainer.data.columns import Column, Columns, describe, named_alike, names_beside, to_facts
from trainer.data.errors import DatasetError, EpisodesError
from trainer.data.frame_cache import cached_camera
from trainer.data.frame_memory import FrameMemories
from trainer.data.lerobot import BOOKKEEPING, LeRobotReader
from trainer.data.lerobot.cameras import Camera, open_camera
from trainer.data.normalization import DATASET_INDEX
from trainer.data.statistics import Stats, normalization_statistics
from trainer.data.stored_statistics import disagreements
from trainer.data.video.decoder import backend
from trainer.data.windows import Window, WindowGather
from trainer.templates import TrainingDataset
from trainer.utils.samples import Samples

Batch = dict[str, Any]
"""Feature → tensor `(B, …)`; `task` is a list of B texts."""


class WindowedDataset(TrainingDataset):
    """One sample for every frame of every chosen episode.

    A sample holds, for each window, `<name>` `(len(offsets), *shape)` and `<name>_is_pad` bool
    `(len(offsets),)`; for a window of a camera the frames, uint8 `(len(offsets), 3, H, W)`, or `(3, H, W)`
    where it has one offset; for each extra column `<key>` `*shape` at its own frame; and `timestamp`
    (float32, seconds), `frame_index`, `episode_index`, `index`, `task_index` (int64) and `task` (text).
    Frames outside the episode are its first or last one, flagged in `_is_pad`.

    Args:
        reader: the dataset on disk.
        windows: the features that are returned as windows.
        extra_columns: further low-dimensional features, returned as they are at the sample's frame.
        episodes: the episodes to use, by number, range or split; all by default.
        floats: of the windows those whose integers and flags are returned as floats that hold each of them.
        frame_cache: a folder where decoded frames are kept, shared by all who name it; none by default.

    Attributes:
        image_keys: the features that are camera frames.
        columns: what everything in a sample is, but for the flags.

    Raises:
        DatasetError: a column or a video cannot be read, the timestamps do not follow the rate, an episode
            does not exist or is named twice (`EpisodesError`), or a window is longer than every chosen
            episode (`WindowError`).
    """

    concurrent_reads = True

    def __init__(
        self,
        reader: LeRobotReader,
        windows: Sequence[Window],
        extra_columns: Sequence[str] = (),
        episodes: Episodes | None = None,
        frame_cache: Path | str | None = None,
        floats: Collection[str] = (),
    ) -> None:
        keys = [window.key for window in windows]
        plain = [*dict.fromkeys((*extra_columns, *BOOKKEEPING))]
        twice = sorted({key for key in keys if keys.count(key) > 1 or key in plain})
        if twice:
            raise DatasetError(f"{reader.root}: '{twice[0]}' is asked for more than once")
        _check_names(reader, windows, plain)
        self.reader = reader
        self.windows = tuple(windows)
        self._positions = _positions(reader, episodes)
        self.splits = reader.info.splits
        cameras = set(reader.camera_features())
        columns = reader.columns([*(key for key in keys if key not in cameras), *plain], self._positions)
        reader.check_timestamps(self._positions)
        reader.check_tasks(self._positions)
        self._lengths = reader.episodes.length[self._positions]
        starts = np.cumsum(self._lengths) - self._lengths
        self._floats = [key for key in floats if columns[key].dtype.kind != "f"]
        for key in self._floats:
            columns[key] = _as_floats(columns[key], f"{reader.root}: '{key}'")
        self._columns = columns
        self._gather = WindowGather(columns, self.windows, starts, self._lengths)
        self._plain = {key: columns[key] for key in plain}
        self._cameras: dict[str, Camera] = {}
        for key in keys:
            if key in cameras:
                camera = open_camera(reader, key, self._positions)
                self._cameras[key] = (
                    camera if frame_cache is None else cached_camera(camera, Path(frame_cache))
                )
        self.image_keys = tuple(self._cameras)
        self.keeps_frames = bool(self._cameras) and frame_cache is None
        self._called = {window.key: window.name for window in self.windows}
        described = {self._name(key): self._described(key) for key in (*keys, *plain)}
        self.columns: Columns = {**described, "task": Column("task", "text", "string", ())}
        self._memories = FrameMemories(self._cameras)
        self._tasks = reader.tasks

    def __len__(self) -> int:
        """Return the number of samples, which is that of the frames of the chosen episodes."""
        return int(self._lengths.sum())

    @property
    def episode_index(self) -> np.ndarray:
        """Number of every sample's episode, int64 `(N,)`."""
        return np.repeat(self.reader.episodes.episode_index[self._positions], self._lengths)

    def __getitems__(self, indices: Sequence[int] | np.ndarray | Tensor) -> Samples:
        """Return the samples `indices` `(B,)` as one batch; each value has a leading dimension B."""
        rows = np.asarray(indices, dtype=np.int64)
        gathered = self._gather(rows)
        for key, camera in self._cameras.items():
            wanted = gathered[key]
            frames = self._memories.read(key, wanted.reshape(-1))
            gathered[key] = frames if wanted.shape[1] == 1 else frames.reshape(*wanted.shape, *camera.shape)
        for key, column in self._plain.items():
            gathered[key] = column[rows]
        batch: Batch = {key: torch.from_numpy(values) for key, values in gathered.items()}
        batch["task"] = [self._tasks[i] for i in gathered["task_index"].tolist()]
        return Samples(batch)

    def expect(self, samples: np.ndarray, memory: int) -> None:
        """Take over which samples will be read, and keep decoded frames for them, unless they lie in a cache.

        Args:
            samples: int64 `(L,)` in their order, until the next call and some way beyond it.
            memory: bytes for frames; no value depends on it.
        """
        if self.keeps_frames:
            self._memories.expect(self.windows, self._gather, samples, memory)

    def statistics(self, keys: Sequence[str]) -> Stats:
        """Return exact statistics of low-dimensional features over the chosen episodes, for normalization.

        Args:
            keys: columns of the dataset; the statistics bear the names that a sample has for them.
        """
        return {self._name(key): normalization_statistics(self._columns[key]) for key in keys}

    def feature_values(self, feature: str) -> np.ndarray | None:
        """Return all values of a feature, `(N, *shape)`, by the name that a sample has for it."""
        key = next((window.key for window in self.windows if window.name == feature), feature)
        return self._columns.get(key)

    def disagreements(self, stats: Stats) -> Iterator[str]:
        """Yield where the statistics that came with the dataset are not those of its numbers, in sentences.

        Args:
            stats: what `statistics` has returned.
        """
        keys = {window.name: window.key for window in self.windows}
        exact = {keys.get(name, name): values for name, values in stats.items()}
        columns = {key: self._columns[key] for key in exact}
        yield from disagreements(self.reader, columns, exact, self._positions)

    def _name(self, key: str) -> str:
        """Return what a column is called in a sample."""
        return self._called.get(key, key)

    def _described(self, key: str) -> Column:
        column = describe(self.reader.features[key], self._name(key))
        return (
            replace(column, kind="number", dtype=self._columns[key].dtype.name)
            if key in self._floats
            else column
        )

    def facts(self) -> dict[str, Any]:
        """Return what a person wants to know about the dataset as it is used here, ready for JSON."""
        lengths = self._lengths
        said = self.reader.facts()
        for key in self._floats:
            said["features"][key]["dtype"] = self._columns[key].dtype.name
        names = self._called.values()
        features = {
            self._name(key): one
            for key, one in said["features"].items()
            if key in self._called or key not in names
        }
        return {
            **said,
            "features": features,
            "columns": to_facts(self.columns),
            "video_decoder": backend() if self._cameras else None,
            "episodes": len(lengths),
            "frames": len(self),
            "windows": {window.name: list(window.offsets) for window in self.windows},
            "episode_lengths": {
                "min": int(lengths.min()),
                "mean": float(lengths.mean()),
                "max": int(lengths.max()),
            },
        }


def _as_floats(column: np.ndarray, where: str) -> np.ndarray:
    """Return integers or flags as float32, or as float64 where they are too large for it."""
    try:
        return cast_numbers(column, "float32")
    except CastError:
        try:
            return cast_numbers(column, "float64")
        except CastError as problem:
            raise DatasetError(f"{where} is wanted as floats, {problem}") from None


def _check_names(reader: LeRobotReader, windows: Sequence[Window], plain: Sequence[str]) -> None:
    """Look whether a column has a name that something else in a sample has."""
    keys = {window.name: window.key for window in windows}
    names = [*(window.name for window in windows), *plain]
    taken = names_beside(keys)
    taken |= {"task": "the text of the task", DATASET_INDEX: "the number of the dataset in a mixture"}
    for name in names:
        if name in taken or names.count(name) > 1:
            what = taken.get(name, "another column")
            raise DatasetError(f"{reader.root}: {named_alike(name, what)}")


def _positions(reader: LeRobotReader, episodes: Episodes | None) -> np.ndarray:
    """Return the places of the chosen episodes in the episode table, ascending."""
    if episodes is None:
        return np.arange(len(reader.episodes))
    place = {int(number): i for i, number in enumerate(reader.episodes.episode_index)}
    try:
        chosen = chosen_episodes(episodes, place, reader.info.splits)
    except EpisodesError as problem:
        raise EpisodesError(f"{reader.root}: {problem.message}", problem.hint) from None
    return np.sort(np.array([place[number] for number in chosen], np.int64))
