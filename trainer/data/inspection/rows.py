"""The rows of all data files as they are, sound or not, and whether their bookkeeping is right."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from trainer.data.errors import DatasetError
from trainer.data.inspection.findings import Findings, counted, in_places
from trainer.data.lerobot import BOOKKEEPING, LeRobotReader
from trainer.data.lerobot.columns import read_table, to_numpy
from trainer.data.lerobot.episodes import other_task
from trainer.data.lerobot.info import Feature
from trainer.data.lerobot.reader import row_place
from trainer.data.windows import TOLERANCE_S


@dataclass(frozen=True)
class Rows:
    """The rows that can be read, in the order of the files.

    Attributes:
        paths: the files, and `counts` the number of rows of each.
        episode: number of the episode that each row says it belongs to, int64 `(N,)`.
        frame: place of each row among those of its episode, int64 `(N,)`.
        bookkeeping: the columns that every dataset has, `(N,)`.
        complete: whether every file could be read and every row is where it should be.
    """

    paths: tuple[Path, ...]
    counts: tuple[int, ...]
    episode: np.ndarray
    frame: np.ndarray
    bookkeeping: dict[str, np.ndarray]
    complete: bool

    def __len__(self) -> int:
        return len(self.episode)

    def column(self, feature: Feature) -> np.ndarray:
        """Read a feature of all rows, `(N, *shape)`.

        Raises:
            DatasetError: it is missing in a file, has another shape or type, or has rows without a value.
        """
        parts = []
        for path in self.paths:
            table = read_table(path, [feature.name, "episode_index", "frame_index"])
            parts.append(to_numpy(table.column(feature.name), feature, path, partial(row_place, table)))
        return np.concatenate(parts)

    def rows_of(self, episode: int) -> np.ndarray:
        """Return the rows of an episode, in the order of its frames."""
        rows = np.flatnonzero(self.episode == episode)
        return rows[np.argsort(self.bookkeeping["frame_index"][rows], kind="stable")]


def read_rows(reader: LeRobotReader, findings: Findings) -> Rows | None:
    """Read what every row says of itself; None where no file can be read."""
    paths: list[Path] = []
    counts: list[int] = []
    parts: dict[str, list[np.ndarray]] = {name: [] for name in BOOKKEEPING}
    complete = True
    for file in reader.episodes.files:
        numbers = reader.episodes.episode_index[file.episodes]
        try:
            table = read_table(file.path, list(BOOKKEEPING))
            columns = {n: to_numpy(table.column(n), reader.features[n], file.path) for n in BOOKKEEPING}
        except DatasetError as problem:
            findings.fault("data_file", str(problem), episodes=numbers.tolist())
            complete = False
            continue
        paths.append(file.path)
        counts.append(table.num_rows)
        for name, column in columns.items():
            parts[name].append(column)
    if not paths:
        return None
    columns = {name: np.concatenate(part) for name, part in parts.items()}
    episode = columns["episode_index"]
    rows = Rows(tuple(paths), tuple(counts), episode, _places(episode), columns, complete)
    sound = _check_episodes(reader, rows, findings) and _check_files(reader, rows, findings)
    sound &= _check_numbers(reader, rows, findings)
    return Rows(rows.paths, rows.counts, episode, rows.frame, columns, complete and sound)


def check_timestamps(reader: LeRobotReader, rows: Rows, findings: Findings) -> None:
    """Find times that repeat, run backwards, are not those of the rate, or are shifted."""
    time = rows.bookkeeping["timestamp"].astype(np.float64)
    bad = ~np.isfinite(time)
    if bad.any():
        _report(rows, bad, findings, "timestamp", "timestamp is NaN or infinite")
        time = np.where(bad, np.nan, time)
    same = rows.episode[1:] == rows.episode[:-1]
    step = np.where(same, np.diff(time), np.nan)
    repeated = np.concatenate([[False], step == 0])
    backwards = np.concatenate([[False], step < 0])
    _report(rows, repeated, findings, "timestamp_duplicate", "the timestamp is that of the frame before")
    _report(rows, backwards, findings, "timestamp_backwards", "the timestamp is earlier than that before")
    steps = step[np.isfinite(step) & (step > 0)]
    if len(steps):
        rate = 1 / float(np.median(steps))
        if abs(rate - reader.fps) > 0.01 * reader.fps:
            findings.fault(
                "fps", f"the timestamps are those of {rate:.4g} frames/s, info.json says {reader.fps:g}"
            )
            return  # every single frame is off then
    expected = rows.bookkeeping["frame_index"] / reader.fps
    off = np.abs(time - expected) > TOLERANCE_S + np.spacing(expected.astype(np.float32))
    off &= ~(repeated | backwards | bad)
    if off.any():
        row = int(np.flatnonzero(off)[0])
        _report(
            rows,
            off,
            findings,
            "timestamp_sync",
            f"the timestamp is not frame_index / fps ({time[row]:.4f} s, not {expected[row]:.4f} s)",
        )


def check_tasks(reader: LeRobotReader, rows: Rows | None, findings: Findings) -> None:
    """Find tasks without words, rows that name no task, and tasks that nothing has."""
    texts = reader.tasks
    for index, text in enumerate(texts):
        if not text.strip():
            findings.fault("task_text", f"task {index} has no text")
    numbers = reader.episodes.episode_index
    for number, named in zip(numbers, reader.episodes.tasks, strict=True):
        unknown = [text for text in named if text not in texts]
        if unknown:
            findings.fault(
                "task_text",
                f"episode {number} has the task '{unknown[0]}', which is not among the tasks of the dataset",
                episodes=[int(number)],
            )
    if rows is None:
        return
    named_by_rows = rows.bookkeeping["task_index"]
    _check_episode_tasks(reader, rows, findings)
    outside = (named_by_rows < 0) | (named_by_rows >= len(texts))
    _report(rows, outside, findings, "task_index", f"task_index goes beyond the {len(texts)} tasks")
    unused = sorted(set(range(len(texts))) - set(named_by_rows.tolist()))
    if unused and rows.complete:
        findings.remark("task_unused", f"no frame has task {unused[0]}, '{texts[unused[0]]}'")


def _check_episode_tasks(reader: LeRobotReader, rows: Rows, findings: Findings) -> None:
    """Find rows with a task that the episode table does not give their episode."""
    order = np.argsort(rows.episode, kind="stable")
    numbers, starts = np.unique(rows.episode[order], return_index=True)
    indices = dict(
        zip(numbers.tolist(), np.split(rows.bookkeeping["task_index"][order], starts[1:]), strict=True)
    )
    wrong = []
    for position, number in enumerate(reader.episodes.episode_index.tolist()):
        task = other_task(reader.episodes, reader.tasks, position, indices.get(number, np.empty(0, np.int64)))
        if task is not None:
            wrong.append((number, task))
    if wrong:
        number, task = wrong[0]
        findings.fault(
            "task_index",
            f"the rows of episode {number} have the task '{task}', which the episode table does not give it"
            + (f" ({len(wrong)} such episodes)" if len(wrong) > 1 else ""),
            episodes=[number for number, _ in wrong],
        )


def check_lengths(reader: LeRobotReader, findings: Findings) -> None:
    """Remark on episodes that are much shorter than the others."""
    lengths, numbers = reader.episodes.length, reader.episodes.episode_index
    median = float(np.median(lengths))
    short = lengths < max(2, 0.2 * median)
    if short.any():
        which = numbers[short]
        findings.remark(
            "short_episode",
            f"{counted(len(which), 'episode')} {'is' if len(which) == 1 else 'are'} shorter than a fifth of "
            f"the median of {median:g} frames, first episode {which[0]} with {lengths[short][0]}",
            episodes=which.tolist(),
        )


def _places(episode: np.ndarray) -> np.ndarray:
    """Return the place of every row among those of its episode."""
    order = np.argsort(episode, kind="stable")
    _, starts, counts = np.unique(episode[order], return_index=True, return_counts=True)
    places = np.empty(len(episode), np.int64)
    places[order] = np.arange(len(episode)) - np.repeat(starts, counts)
    return places


def _check_episodes(reader: LeRobotReader, rows: Rows, findings: Findings) -> bool:
    """Hold the number of rows of each episode against the episode table."""
    found = dict(zip(*(a.tolist() for a in np.unique(rows.episode, return_counts=True)), strict=True))
    listed = dict(zip(reader.episodes.episode_index.tolist(), reader.episodes.length.tolist(), strict=True))
    unreadable = {
        int(n)
        for file in reader.episodes.files
        if file.path not in rows.paths
        for n in reader.episodes.episode_index[file.episodes]
    }
    wrong = [n for n in listed if n not in unreadable and found.get(n, 0) != listed[n]]
    if wrong:
        first = wrong[0]
        findings.fault(
            "episode_rows",
            f"episode {first} has {counted(found.get(first, 0), 'row')} in the data files, the episode "
            f"table says {listed[first]}" + (f" ({len(wrong)} such episodes)" if len(wrong) > 1 else ""),
            episodes=wrong,
        )
    stray = sorted(set(found) - set(listed))
    if stray:
        findings.fault("episode_rows", f"the data files have rows of episode {stray[0]}, which is not listed")
    return not wrong and not stray


def _check_files(reader: LeRobotReader, rows: Rows, findings: Findings) -> bool:
    """Hold the episodes of each file against those that the episode table places in it."""
    files = {file.path: file for file in reader.episodes.files}
    home = {
        int(number): file.path
        for file in reader.episodes.files
        for number in reader.episodes.episode_index[file.episodes]
    }
    begin = 0
    strays: list[tuple[int, Path]] = []
    for path, count in zip(rows.paths, rows.counts, strict=True):
        present = set(np.unique(rows.episode[begin : begin + count]).tolist())
        listed = set(reader.episodes.episode_index[files[path].episodes].tolist())
        strays += [(number, path) for number in sorted(present - listed)]
        begin += count
    if strays:
        number, path = strays[0]
        findings.fault(
            "episode_rows",
            f"{path}: rows of episode {number} are in it, the episode table places them in {home[number]}",
            episodes=[number for number, _ in strays],
        )
    return not strays


def _check_numbers(reader: LeRobotReader, rows: Rows, findings: Findings) -> bool:
    """Check that frames count from 0 in each episode, and indices through the whole dataset."""
    frame = rows.bookkeeping["frame_index"]
    wrong_frame = np.not_equal(frame, rows.frame)
    _report(rows, wrong_frame, findings, "frame_index", "frame_index does not count the frames from 0")
    start = dict(zip(reader.episodes.episode_index.tolist(), reader.episodes.start.tolist(), strict=True))
    begin = np.array([start.get(n, -1) for n in rows.episode.tolist()], np.int64)
    wrong_index = np.not_equal(rows.bookkeeping["index"], begin + rows.frame)
    _report(rows, wrong_index, findings, "index", "index does not count the frames of the dataset")
    return not (wrong_frame.any() or wrong_index.any())


def _report(rows: Rows, bad: np.ndarray, findings: Findings, kind: str, what: str) -> None:
    """Add one fault for all rows that are bad."""
    where = np.flatnonzero(bad)
    if not len(where):
        return
    first = where[0]
    episodes = rows.episode[where]
    place = in_places(len(where), episodes.tolist(), int(rows.frame[first]), int(rows.episode[first]))
    findings.fault(kind, f"{what} {place}", episodes=episodes.tolist())
