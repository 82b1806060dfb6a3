"""The collected steps that are in memory, and the samples that are made of them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.config.online import ReplayConfig
from trainer.data.lerobot.info import BOOKKEEPING
from trainer.data.windows import WindowGather
from trainer.online.description import Description
from trainer.online.episode import Episode
from trainer.online.growing import GrowingColumns
from trainer.online.sampling import DrawTable, step_weights

Sample = dict[str, Any]
"""Feature → array `(B, …)`; `task` is a list of B texts."""

_MARKS = {
    "first": ("int64", ()),  # the rows between which a window of this one lies
    "last": ("int64", ()),
    "place": ("int64", ()),  # which episode, counted from the first that was ever in memory
    "control_mode": ("int8", ()),
    "labelled": ("bool", ()),
    "success": ("bool", ()),
}


@dataclass(frozen=True)
class Contents:
    """What was in memory at one moment: it never changes, so that many may draw from it while more comes.

    Attributes:
        description: of the samples.
        settings: `online.replay`.
        begin: the first row; those before it have made way.
        values: the columns of numbers, bookkeeping included, `(end, *shape)`.
        marks: what else is known of each row.
        pictures: of each episode its cameras' pictures, `(T, 3, H, W)`.
        first_place: the place of the first of these episodes.
        tasks: the texts of the tasks.
    """

    description: Description
    settings: ReplayConfig
    begin: int
    values: dict[str, np.ndarray]
    marks: dict[str, np.ndarray]
    pictures: Sequence[dict[str, np.ndarray]]
    first_place: int
    tasks: Sequence[str]

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.marks["first"]) - self.begin

    @functools.cached_property
    def table(self) -> DrawTable:
        """The windows that may be drawn; its rows are counted from `begin`."""
        marks = {name: column[self.begin :] for name, column in self.marks.items()}
        age = np.arange(self.steps)[::-1]
        return DrawTable(
            step_weights(self.settings, marks["control_mode"], marks["labelled"], marks["success"], age)
        )

    @functools.cached_property
    def _gather(self) -> WindowGather:
        first, last = self.marks["first"], self.marks["last"]
        return WindowGather.of_runs(self.values, self.description.windows, first, last)

    def draw(self, shares: np.ndarray) -> np.ndarray:
        """Return the rows of windows that lie at these shares of all weight, int64 `(B,)`."""
        return self.table.draw(shares) + self.begin

    def samples(self, rows: np.ndarray) -> Sample:
        """Return the windows of rows `(B,)`, as the dataset would give them."""
        sample: Sample = self._gather(rows)
        for camera in self.description.cameras:
            wanted = sample[camera.name]
            frames = self._frames(camera.name, camera.shape, wanted.reshape(-1))
            alone = wanted.shape[1] == 1
            sample[camera.name] = frames if alone else frames.reshape(*wanted.shape, *camera.shape)
        for name in (*(column.name for column in self.description.beside), *BOOKKEEPING):
            sample[name] = self.values[name][rows]
        sample["task"] = [self.tasks[i] for i in sample["task_index"].tolist()]
        return sample

    def _frames(self, name: str, shape: tuple[int, ...], rows: np.ndarray) -> np.ndarray:
        frames = np.empty((len(rows), *shape), np.uint8)
        episodes = [pictures[name] for pictures in self.pictures]
        places = (self.marks["place"][rows] - self.first_place).tolist()
        steps = self.values["frame_index"][rows].tolist()
        for i, (place, step) in enumerate(zip(places, steps, strict=True)):
            frames[i] = episodes[place][step]
        return frames


class EpisodeMemory:
    """Episodes in memory, of which the oldest make way; episodes longer than that stay alone.

    Args:
        description: of the samples.
        settings: `online.replay`; `capacity` is the number of steps that are kept.
    """

    def __init__(self, description: Description, settings: ReplayConfig) -> None:
        self.description, self.settings = description, settings
        numbers = {c.name: (c.dtype, c.shape) for c in description.stored if not c.is_picture}
        self._values = GrowingColumns(
            {**numbers, **{name: (dtype, ()) for name, dtype in BOOKKEEPING.items()}}
        )
        self._marks = GrowingColumns(_MARKS, row_numbers=("first", "last"))
        self._lengths: list[int] = []
        self._pictures: list[dict[str, np.ndarray]] = []
        self._place = 0
        self._tasks = list(description.tasks)
        self.contents = self._now()

    def append(self, number: int, index: int, episode: Episode, pictures: Mapping[str, np.ndarray]) -> None:
        """Take in an episode.

        Args:
            number: of the episode.
            index: steps that were collected before it.
            episode: what was played, checked.
            pictures: those of its cameras, `(T, 3, H, W)`, which nobody writes to any more.
        """
        length = len(episode)
        frame = np.arange(length)
        first, last = segments(episode.control_mode, episode.labelled)
        columns = {
            **episode.columns,
            "timestamp": (frame / self.description.fps).astype(np.float32),
            "frame_index": frame,
            "episode_index": np.full(length, number),
            "index": frame + index,
            "task_index": np.full(length, self._task(episode.task)),
        }
        marks = {
            "first": first,
            "last": last,
            "place": np.full(length, self._place),
            "control_mode": episode.control_mode,
            "labelled": episode.labelled,
            "success": np.full(length, episode.success),
        }
        self._values.append(columns, length)
        self._marks.append(marks, length)
        self._lengths.append(length)
        self._pictures.append(dict(pictures))
        self._place += 1
        while len(self._marks) > self.settings.capacity and len(self._lengths) > 1:
            self._values.drop(self._lengths[0])
            self._marks.drop(self._lengths[0])
            del self._lengths[0], self._pictures[0]
        self.contents = self._now()

    def name_task(self, task: str) -> None:
        """Number the task of an episode that is not in memory any more, as if it had been."""
        self._task(task)

    def _task(self, task: str) -> int:
        if task not in self._tasks:
            self._tasks.append(task)
        return self._tasks.index(task)

    def _now(self) -> Contents:
        return Contents(
            description=self.description,
            settings=self.settings,
            begin=self._marks.begin,
            values=self._values.arrays(),
            marks=self._marks.arrays(),
            pictures=list(self._pictures) if self.description.cameras else (),
            first_place=self._place - len(self._lengths),
            tasks=self._tasks,
        )


def segments(control_mode: np.ndarray, labelled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and the last step of the run of steps to which each step belongs, int64 `(T,)` each.

    In a run the same one moves the robot, and all actions are labelled or none.
    """
    changes = (control_mode[1:] != control_mode[:-1]) | (labelled[1:] != labelled[:-1])
    begins = np.concatenate([[0], np.flatnonzero(changes) + 1])
    lengths = np.diff([*begins, len(control_mode)])
    return np.repeat(begins, lengths), np.repeat(begins + lengths - 1, lengths)
