"""What was collected as a LeRobot dataset: today's episodes are tomorrow's demonstrations."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.columns import Column
from trainer.data.errors import DatasetError
from trainer.data.lerobot import LeRobotWriter
from trainer.data.lerobot.info import INFO_PATH
from trainer.online.description import Description
from trainer.online.episode import Episode
from trainer.online.journal import Journal, JournalError
from trainer.utils.log import log

BESIDE = {"control_mode": "int8", "labelled": "bool", "policy_version": "int64"}
"""The columns of a compacted dataset that demonstrations do not have, one number per frame."""


def compact(journal: Journal, description: Description, root: Path) -> int:
    """Write all episodes of a journal as a LeRobot v3.0 dataset; return their number.

    An older dataset at `root` makes way when the new one is whole. Under `collected` in its `info.json` stand
    the outcome, source, start seed and number in the journal of each episode.

    Raises:
        DatasetError: the journal is empty, or an episode cannot be written.
        JournalError: an episode is damaged.
    """
    features = {column.name: _feature(column, description) for column in description.stored}
    features |= {name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in BESIDE.items()}
    about: dict[str, list[Any]] = {"number": [], "success": [], "source": [], "start_seed": []}
    fps = int(description.fps) if description.fps.is_integer() else description.fps
    with LeRobotWriter(
        root, fps=fps, features=features, replace=True, metadata={"collected": about}
    ) as writer:
        for number in journal.numbers():
            episode = journal.read(number).episode
            writer.add_episode(_columns(episode, description), episode.task)
            about["number"].append(number)
            for name in ("success", "source", "start_seed"):
                about[name].append(getattr(episode, name))
    return len(about["number"])


def compacted_episodes(root: Path) -> int:
    """Return the number of episodes in the dataset that `compact` wrote last; 0 without one."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        return int(json.loads((root / INFO_PATH).read_text(encoding="utf-8"))["total_episodes"])
    return 0


def _feature(column: Column, description: Description) -> dict[str, Any]:
    if column.is_picture:
        channels, height, width = column.shape
        return {"dtype": "video", "shape": [height, width, channels]}
    names = description.names.get(column.name)
    return {"dtype": column.dtype, "shape": list(column.shape), "names": names}


def _columns(episode: Episode, description: Description) -> dict[str, np.ndarray]:
    columns = dict(episode.columns)
    for camera in description.cameras:
        columns[camera.name] = np.moveaxis(columns[camera.name], 1, -1)
    return columns | {name: getattr(episode, name)[:, None] for name in BESIDE}


class Compaction:
    """Compacts beside everything else, one at a time, in a thread.

    Args:
        work: compacts, and returns the number of episodes.
        done: episodes that are compacted already.
    """

    def __init__(self, work: Callable[[], int], done: int) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.done = done

    def begin(self) -> None:
        """Begin, unless one is going on; what fails is said, and the journal still has everything."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._in_thread, name="compaction", daemon=True)
            self._thread.start()

    def now(self) -> int:
        """Compact once more, after the one that is going on; return the number of episodes."""
        with self._lock:
            self.done = self._work()
            return self.done

    def _in_thread(self) -> None:
        # As urgent as all other threads: it often holds the interpreter's lock, and whoever draws would wait
        # for a thread that a busy machine hardly lets run. Pictures are encoded by threads that stand back.
        try:
            self.now()
        except (DatasetError, JournalError, OSError) as problem:
            log.warning(f"what was collected is not written as a dataset: {problem}")
