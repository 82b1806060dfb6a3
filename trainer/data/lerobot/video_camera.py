"""The frames of a camera of a LeRobot dataset that lie in video files."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainer.data.errors import DatasetError
from trainer.data.lerobot.reader import LeRobotReader, named_episodes
from trainer.data.threads import number_of_threads, side_by_side
from trainer.data.video.decoder import DECODE_ERRORS, POOL
from trainer.data.video.header import (
    TOLERANCE,
    VideoHeader,
    frame_rate,
    frame_size,
    frame_times,
    misplaced,
    off_time,
    read_header,
)
from trainer.utils.text import first_line

CHECKED_AT_OPEN = 1000
"""So many video files have their headers read when a dataset is opened; beyond, when they are decoded."""

_PLACE = ("chunk_index", "file_index", "from_timestamp")
"""What the episode table says of where a video is."""

_SHORTEST_RUN = 16
"""Frames that are worth a thread of their own."""


class _Part(NamedTuple):
    """Frames that one call decodes: of which file, their `numbers`, and which of them goes to each place."""

    file: int
    places: np.ndarray
    numbers: np.ndarray
    which: np.ndarray


class VideoCamera:
    """A camera stored as videos: each file of a batch is decoded in one call."""

    def __init__(self, reader: LeRobotReader, key: str, positions: np.ndarray) -> None:
        self.key = key
        self.shape = reader.features[key].frame_shape
        self._fps = reader.fps
        self._episodes = reader.episodes.episode_index[positions]
        lengths = reader.episodes.length[positions]
        self._ends = np.cumsum(lengths)
        self._paths, which, begins = video_places(reader, key, positions)
        for one, other in episodes_that_share_frames(reader, key):
            if np.isin([one, other], positions).any():
                raise DatasetError(f"{reader.root}: {shared_frames_message(reader, key, one, other)}")
        times = np.repeat(begins, lengths) + reader.columns(["timestamp"], positions)["timestamp"]
        self._number = np.rint(times * self._fps).astype(np.int64)
        self._file = np.repeat(which, lengths)
        wrong = np.flatnonzero(off_time(times, self._number, self._fps) | (self._number < 0))
        if len(wrong):
            raise DatasetError(
                f"{self._where(int(wrong[0]))} is wanted at {times[wrong[0]]:.4f} s, where a video of "
                f"{self._fps:g} frames/s has none"
            )
        self._pictures = _PictureGroups(self._file, self._number, len(self._paths))
        self._checked = np.zeros(len(self._paths), bool)
        for file, path in enumerate(self._paths):
            if not path.is_file():
                raise DatasetError(f"{path}: the video is missing; {self._episodes_in(file)} should be in it")
        headers = [self._check(file) for file in range(min(len(self._paths), CHECKED_AT_OPEN))]
        self.frames_per_keyframe = float(np.mean([header.frames_per_keyframe for header in headers]))

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._number)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return the frames of rows `(K,)`: uint8 `(K, 3, H, W)`."""
        out = np.empty((len(rows), *self.shape), np.uint8)
        self._check_files(rows)
        side_by_side(lambda part: self._decode(part, rows, out), list(self._parts(rows)))
        return out

    def together(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows of the groups of pictures that `rows` are in, `(K,)`, each once."""
        self._check_files(rows)
        return self._pictures.together(rows)

    def _check_files(self, rows: np.ndarray) -> None:
        for file in np.unique(self._file[rows]).tolist() if not self._checked.all() else ():
            if not self._checked[file]:
                self._check(file)

    def _decode(self, part: _Part, rows: np.ndarray, out: np.ndarray) -> None:
        """Write the frames of a part to their places in `out`."""
        try:
            frames, times = POOL.frames(self._paths[part.file], self._fps, part.numbers.tolist())
        except DECODE_ERRORS as problem:
            raise self._failure(rows[part.places], problem) from None
        off = off_time(times, part.numbers, self._fps)
        if off.any():
            first = int(np.argmax(off))
            row = int(rows[part.places][part.which == first][0])
            raise self._wrong_time(row, part.numbers[first], times[first])
        pictures = frames.transpose(0, 3, 1, 2)
        if pictures.shape[1:] != self.shape:
            raise self._wrong_size(part.file, pictures.shape[2:])
        if len(part.which) > len(part.numbers):
            pictures = pictures[part.which]
        first, last = int(part.places[0]), int(part.places[-1])
        if (np.diff(part.places) == 1).all():
            out[first : last + 1] = pictures  # twice as fast as by places
        else:
            out[part.places] = pictures

    def sources(self) -> list[Path]:
        """Return the video files."""
        return list(self._paths)

    def identity(self) -> np.ndarray:
        """Return file and frame of every row."""
        return np.stack([self._file, self._number], axis=1)

    def _parts(self, rows: np.ndarray) -> Iterator[_Part]:
        """Yield what is decoded in one call each: a file's frames, or a run of them for each thread."""
        files = self._file[rows]
        order = np.argsort(files * (int(self._number.max()) + 1) + self._number[rows], kind="stable")
        files = files[order]
        edges = [0, *(np.flatnonzero(np.diff(files)) + 1).tolist(), len(rows)]
        for begin, end in itertools.pairwise(edges):
            if begin == end:
                continue
            places = order[begin:end]
            numbers, which = np.unique(self._number[rows[places]], return_inverse=True)
            which = which.reshape(-1)  # ascending, as the places are in the order of their frames
            runs = max(1, min(number_of_threads(), len(numbers) // _SHORTEST_RUN))
            bounds = np.linspace(0, len(numbers), runs + 1).astype(int)
            if runs > 1:
                # A run ends where a group of pictures does, or two threads would decode the same frames.
                groups = self._pictures.group(rows[places[np.searchsorted(which, np.arange(len(numbers)))]])
                bounds[1:-1] = np.searchsorted(groups, groups[bounds[1:-1]])
            for low, high in itertools.pairwise(bounds.tolist()):
                if low < high:
                    own = slice(*np.searchsorted(which, [low, high]))
                    yield _Part(int(files[begin]), places[own], numbers[low:high], which[own] - low)

    def _check(self, file: int) -> VideoHeader:
        """Hold the header of a file against the dataset."""
        path = self._paths[file]
        try:
            header = read_header(path)
        except DatasetError as problem:
            raise DatasetError(f"{problem}; {self._episodes_in(file)} should be in it") from None
        rows = self._pictures.rows_of(file)
        size = (header.height, header.width)
        # A film that is shown turned by a quarter is stored with its sides exchanged.
        if file == 0 or size != self.shape[1:]:
            # What cannot be decoded is refused when it is wanted; the film may be sound elsewhere.
            with contextlib.suppress(DatasetError):
                size = frame_size(path)
        if size != self.shape[1:]:
            raise self._wrong_size(file, size)
        self._check_times(file, rows, header)
        self._pictures.divide(file, self._number[rows], header.keyframes)
        self._checked[file] = True
        return header

    def _check_times(self, file: int, rows: np.ndarray, header: VideoHeader) -> None:
        """Look whether a file has a frame at the time of every row `rows`, in the order of their frames."""
        numbers, frames, rate = self._number[rows], header.frames, header.fps
        if header.steady and rate:
            nearest = None
            wrong = numbers >= frames
            drift = abs(numbers[-1] * (self._fps / rate - 1))
            other_rate = frames > 1 and (abs(rate / self._fps - 1) > 1e-3 or drift > TOLERANCE)
        else:
            times = frame_times(self._paths[file])
            wrong, nearest = misplaced(times, numbers, self._fps)
            frames, rate = len(times), frame_rate(times, self._fps)
            other_rate = bool(wrong.any()) and abs(rate / self._fps - 1) > 0.01
        if other_rate:
            raise DatasetError(
                f"{self._where(int(rows[0]))}: the video has {rate:g} frames/s, the dataset has {self._fps:g}"
            )
        if not wrong.any():
            return
        first = int(np.argmax(wrong))
        row, number = int(rows[first]), int(numbers[first])
        if nearest is not None and number < frames:
            raise self._wrong_time(row, number, nearest[first])
        raise DatasetError(
            f"{self._where(row)} is frame {number} of the video, which is too short: it has {frames} frames"
        )

    def _wrong_time(self, row: int, number: int, time: float) -> DatasetError:
        return DatasetError(
            f"{self._where(row)} should be shown at {number / self._fps:.4f} s, the video has a frame at "
            f"{time:.4f} s"
        )

    def _wrong_size(self, file: int, size: Sequence[int]) -> DatasetError:
        return DatasetError(
            f"{self._paths[file]}: frames of '{self.key}' are {size[0]} × {size[1]} pixels, the dataset "
            f"says {self.shape[1]} × {self.shape[2]}"
        )

    def _failure(self, rows: np.ndarray, problem: Exception) -> DatasetError:
        """Find the first frame that cannot be decoded, and say so."""
        reason = first_line(problem)
        for row in rows.tolist():
            number = int(self._number[row])
            try:
                _, times = POOL.frames(self._paths[self._file[row]], self._fps, [number])
            except DECODE_ERRORS:
                break
            if off_time(times, [number], self._fps).any():
                break
        return DatasetError(f"{self._where(row)} cannot be decoded; the video is damaged: {reason}")

    def _episodes_in(self, file: int) -> str:
        episodes = np.searchsorted(self._ends, self._pictures.rows_of(file), side="right")
        return named_episodes(self._episodes[np.unique(episodes)])

    def _where(self, row: int) -> str:
        episode = int(np.searchsorted(self._ends, row, side="right"))
        frame = row - (int(self._ends[episode - 1]) if episode else 0)
        return f"{self._paths[self._file[row]]}: frame {frame} of episode {self._episodes[episode]}"


class _PictureGroups:
    """Which frames share a keyframe, over the rows of a camera.

    A row's place is that in the order of files, and of frames within them; a group is a run of places. Until
    a file is divided each of its rows is a group of its own.

    Args:
        file: of each row, int64 `(N,)`.
        number: of each row's frame in its file, int64 `(N,)`.
        files: how many there are.
    """

    def __init__(self, file: np.ndarray, number: np.ndarray, files: int) -> None:
        self._rows = np.lexsort((number, file)).astype(np.int32)
        self._edges = np.searchsorted(file[self._rows], np.arange(files + 1))
        self._place = np.empty_like(self._rows)
        self._place[self._rows] = np.arange(len(file), dtype=np.int32)
        self._begin = np.arange(len(file), dtype=np.int32)
        self._end = self._begin + 1

    def rows_of(self, file: int) -> np.ndarray:
        """Return the rows of a file, in the order of its frames."""
        return self._rows[self._edges[file] : self._edges[file + 1]]

    def divide(self, file: int, numbers: np.ndarray, keyframes: np.ndarray) -> None:
        """Take over where the keyframes of a file are; `numbers` are those of the frames of its rows."""
        if not len(keyframes):
            return
        first = int(self._edges[file])
        begins = np.flatnonzero(np.diff(np.searchsorted(keyframes, numbers, side="right"), prepend=-1))
        sizes = np.diff(begins, append=len(numbers))
        own = slice(first, int(self._edges[file + 1]))
        self._begin[own] = first + np.repeat(begins, sizes)
        self._end[own] = first + np.repeat(begins + sizes, sizes)

    def group(self, rows: np.ndarray) -> np.ndarray:
        """Return a number for each row's group, ascending with files and frames."""
        return self._begin[self._place[rows]]

    def together(self, rows: np.ndarray) -> np.ndarray:
        """Return all rows of the groups that `rows` are in, each once."""
        begins = np.unique(self.group(rows))
        sizes = self._end[begins] - begins
        ends = np.cumsum(sizes)
        return self._rows[np.arange(ends[-1]) + np.repeat(begins - (ends - sizes), sizes)]


def video_places(
    reader: LeRobotReader, key: str, positions: np.ndarray
) -> tuple[list[Path], np.ndarray, np.ndarray]:
    """Return the video files of chosen episodes, which one each is in, and where it begins in seconds.

    Args:
        reader: the dataset.
        key: a camera whose frames are in videos.
        positions: the episodes, as places in the episode table.

    Raises:
        DatasetError: the dataset does not say.
    """
    episodes = reader.episodes
    if reader.info.version == "v2.1":
        per_chunk = reader.info.chunks_size
        named = [
            reader.info.video_path(key, episode_chunk=int(n) // per_chunk, episode_index=int(n))
            for n in episodes.episode_index[positions]
        ]
        place = {path: i for i, path in enumerate(dict.fromkeys(named))}
        which = np.array([place[path] for path in named], np.int64)
        return [reader.root / path for path in place], which, np.zeros(len(named))
    names = [f"videos/{key}/{name}" for name in _PLACE]
    for name in names:
        column = episodes.columns.get(name)
        told = False if column is None else np.isfinite(column[positions].astype(np.float64))
        if not np.all(told):
            number = episodes.episode_index[positions][np.argmin(told)]
            raise DatasetError(
                f"the episode table does not say where the video of '{key}' of episode {number} is ('{name}')"
            )
    chunk, file, begins = (episodes.columns[name][positions] for name in names)
    unique, which = np.unique(np.stack([chunk, file], axis=1).astype(np.int64), axis=0, return_inverse=True)
    paths = [
        reader.root / reader.info.video_path(key, chunk_index=int(c), file_index=int(f)) for c, f in unique
    ]
    return paths, which.reshape(-1), begins.astype(np.float64)


def episodes_that_share_frames(reader: LeRobotReader, key: str) -> list[tuple[int, int]]:
    """Return the pairs of episodes that claim a frame of one video, as places in the episode table.

    Of several episodes on one frame each is paired with one that begins before it. What the table does not
    say of an episode is passed over.
    """
    table = [reader.episodes.columns.get(f"videos/{key}/{name}") for name in _PLACE]
    known = np.ones(len(reader.episodes), bool)
    if reader.info.version != "v2.1":
        for column in table:
            if column is None:
                return []
            known &= np.isfinite(column.astype(np.float64))
    positions = np.flatnonzero(known)
    _, which, begins = video_places(reader, key, positions)
    first = np.rint(begins * reader.fps).astype(np.int64)
    first -= first.min(initial=0)
    end = first + reader.episodes.length[positions]
    # One number line for all files, each beginning where the one before it has ended.
    first, end = (values + which * int(end.max(initial=0)) for values in (first, end))
    order = np.lexsort((end, first))
    first, end, positions = first[order], end[order], positions[order]
    reached = np.maximum.accumulate(end)
    furthest = np.maximum.accumulate(np.where(end == reached, np.arange(len(end)), 0))
    return [
        (int(positions[furthest[late - 1]]), int(positions[late]))
        for late in (np.flatnonzero(first[1:] < reached[:-1]) + 1).tolist()
    ]


def shared_frames_message(reader: LeRobotReader, key: str, one: int, other: int) -> str:
    """Say that two episodes, given as places in the episode table, claim the same frames."""
    numbers = sorted(int(n) for n in reader.episodes.episode_index[[one, other]])
    paths, which, _ = video_places(reader, key, np.array([one]))
    return (
        f"episodes {numbers[0]} and {numbers[1]} lie on the same frames of {paths[which[0]].name}, a video "
        f"of '{key}'; one of them would show the other, so the episode table is wrong"
    )
