"""The cameras of a dataset: whether every frame of every episode is there, at its time, in its size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from trainer.data.errors import DatasetError
from trainer.data.inspection.findings import Findings, counted
from trainer.data.inspection.rows import Rows
from trainer.data.lerobot import LeRobotReader
from trainer.data.lerobot.image_camera import stored_picture, wrong_pictures
from trainer.data.lerobot.info import Feature
from trainer.data.lerobot.video_camera import episodes_that_share_frames, shared_frames_message, video_places
from trainer.data.video.header import (
    VideoHeader,
    frame_rate,
    frame_size,
    frame_times,
    misplaced,
    off_time,
    read_header,
)
from trainer.utils.text import first_line

_PICTURES_AT_ONCE = 256


@dataclass(frozen=True)
class CameraFacts:
    """A camera and how its frames are stored, in words."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    files: int
    stored: str


def check_camera(
    reader: LeRobotReader,
    feature: Feature,
    rows: Rows | None,
    findings: Findings,
    *,
    decode: bool,
    tick: Callable[[], None],
) -> CameraFacts:
    """Look at a camera's frames; `tick` is called after each file, `decode` decodes all of them."""
    try:
        shape = feature.frame_shape
    except DatasetError as problem:
        findings.fault("camera_kind", str(problem), feature=feature.name)
        shape = None
    if feature.dtype == "image":
        return _check_pictures(reader, feature, shape, rows, findings, decode, tick)
    positions: dict[Path, list[tuple[int, float]]] = {}
    placed = True
    for position, number in enumerate(reader.episodes.episode_index):
        try:
            (path,), _, (begin,) = video_places(reader, feature.name, np.array([position]))
        except DatasetError as problem:
            findings.fault("video_place", str(problem), feature=feature.name, episodes=[int(number)])
            placed = False
            break  # what one episode lacks, the others lack too
        positions.setdefault(path, []).append((position, begin))
    _check_lengths(reader, feature, findings)
    if placed:
        _check_shared(reader, feature, findings)
    headers = []
    for path, inside in positions.items():
        numbers = [int(reader.episodes.episode_index[position]) for position, _ in inside]
        try:
            header = read_header(path)
            times = frame_times(path)
        except DatasetError as problem:
            findings.fault("video_file", str(problem), feature=feature.name, episodes=numbers)
            tick()
            continue
        headers.append(header)
        _check_size(feature, shape, header, path, numbers, findings)
        _check_frames(reader, feature, path, inside, times, findings)
        if decode:
            _check_decoding(feature, path, times, numbers, findings)
        tick()
    kinds = sorted({f"{h.codec} {h.pix_fmt}, {h.width} × {h.height}, {h.fps:g} frames/s" for h in headers})
    return CameraFacts(feature.name, feature.dtype, feature.shape, len(positions), "; ".join(kinds))


def _check_lengths(reader: LeRobotReader, feature: Feature, findings: Findings) -> None:
    """Hold the time that the episode table gives an episode in the video against its frames."""
    begin = reader.episodes.columns.get(f"videos/{feature.name}/from_timestamp")
    end = reader.episodes.columns.get(f"videos/{feature.name}/to_timestamp")
    if begin is None or end is None:
        return
    expected = reader.episodes.length / reader.fps
    wrong = np.flatnonzero(~(np.abs(end - begin - expected) <= 0.5 / reader.fps))
    if len(wrong):
        first = wrong[0]
        numbers = reader.episodes.episode_index[wrong]
        findings.fault(
            "video_span",
            f"the episode table gives episode {numbers[0]} {end[first] - begin[first]:.3f} s of the video of "
            f"'{feature.name}', its {reader.episodes.length[first]} frames last {expected[first]:.3f} s"
            + (f" ({len(wrong)} such episodes)" if len(wrong) > 1 else ""),
            feature=feature.name,
            episodes=numbers.tolist(),
        )


def _check_shared(reader: LeRobotReader, feature: Feature, findings: Findings) -> None:
    """Look for episodes that claim the same frames of a video."""
    for one, other in episodes_that_share_frames(reader, feature.name):
        findings.fault(
            "video_overlap",
            shared_frames_message(reader, feature.name, one, other),
            feature=feature.name,
            episodes=sorted(int(n) for n in reader.episodes.episode_index[[one, other]]),
        )


def _check_size(
    feature: Feature,
    shape: tuple[int, int, int] | None,
    header: VideoHeader,
    path: Path,
    numbers: list[int],
    findings: Findings,
) -> None:
    if shape is None:
        return
    _, height, width = shape
    try:
        size = frame_size(path)
    except DatasetError:  # what cannot be decoded is another matter
        size = (header.height, header.width)
    if size != (height, width):
        findings.fault(
            "video_size",
            f"{path}: the frames are {size[0]} × {size[1]} pixels, the dataset says {height} × {width}",
            feature=feature.name,
            episodes=numbers,
        )


def _check_frames(
    reader: LeRobotReader,
    feature: Feature,
    path: Path,
    inside: list[tuple[int, float]],
    times: np.ndarray,
    findings: Findings,
) -> None:
    """Look for a frame of the video at the time of every frame of every episode in it."""
    missing: list[tuple[int, np.ndarray]] = []
    for position, begin in inside:
        first = round(begin * reader.fps)
        numbers = first + np.arange(reader.episodes.length[position])
        wrong, _ = misplaced(times, numbers, reader.fps)
        begins_off = off_time(np.array([begin]), [first], reader.fps)
        lacking = np.flatnonzero(wrong | (numbers < 0) | begins_off)
        if len(lacking):
            missing.append((int(reader.episodes.episode_index[position]), lacking))
    rate = frame_rate(times, reader.fps)
    if missing and abs(rate - reader.fps) > 0.01 * reader.fps:
        findings.fault(
            "video_fps",
            f"{path}: the video has {rate:.4g} frames/s, the dataset says {reader.fps:g}",
            feature=feature.name,
            episodes=[int(reader.episodes.episode_index[position]) for position, _ in inside],
        )
        return
    if missing:
        number, frames = missing[0]
        total = sum(len(lacking) for _, lacking in missing)
        findings.fault(
            "video_frames",
            f"{path}: {counted(total, 'frame')} of {counted(len(missing), 'episode')} "
            f"{'is' if total == 1 else 'are'} not in the video at the time where it should be, first frame "
            f"{frames[0]} of episode {number}",
            feature=feature.name,
            episodes=[episode for episode, _ in missing],
        )


def _check_decoding(
    feature: Feature, path: Path, times: np.ndarray, numbers: list[int], findings: Findings
) -> None:
    try:
        decoded = len(frame_times(path, decode=True))
        problem = f"{len(times) - decoded} of its {len(times)} frames cannot be decoded"
    except DatasetError as error:
        decoded, problem = -1, str(error).removeprefix(f"{path}: ")
    if decoded != len(times):
        findings.fault("video_damaged", f"{path}: {problem}", feature=feature.name, episodes=numbers)


def _check_pictures(
    reader: LeRobotReader,
    feature: Feature,
    shape: tuple[int, int, int] | None,
    rows: Rows | None,
    findings: Findings,
    decode: bool,
    tick: Callable[[], None],
) -> CameraFacts:
    """Look for rows without a picture, and for pictures that cannot be read or have another size."""
    empty: list[int] = []
    broken: list[tuple[int, str]] = []
    row = 0
    for path, count in zip(rows.paths, rows.counts, strict=True) if rows is not None else ():
        for i, cell in enumerate(_cells(path, feature, findings)):
            if not cell or not (cell.get("bytes") or cell.get("path")):
                empty.append(row + i)
            elif shape is not None:
                try:
                    stored_picture(cell, reader.root, shape, decode=decode)
                except ValueError as problem:
                    broken.append((row + i, str(problem)))
        row += count
        tick()
    if rows is not None and empty:
        episodes = rows.episode[empty].tolist()
        findings.fault(
            "image_missing",
            f"{counted(len(empty), 'frame')} of '{feature.name}' {'has' if len(empty) == 1 else 'have'} no "
            f"picture, first frame {rows.frame[empty[0]]} of episode {episodes[0]}",
            feature=feature.name,
            episodes=episodes,
        )
    if rows is not None and broken:
        episodes = rows.episode[[place for place, _ in broken]].tolist()
        first, reason = broken[0]
        findings.fault(
            "image_file",
            f"{counted(len(broken), 'picture')} of '{feature.name}' cannot be read, first frame "
            f"{rows.frame[first]} of episode {episodes[0]}: {reason}",
            feature=feature.name,
            episodes=episodes,
        )
    files = len(rows.paths) if rows is not None else 0
    return CameraFacts(feature.name, feature.dtype, feature.shape, files, "pictures in the data files")


def _cells(
    path: Path, feature: Feature, findings: Findings
) -> Iterator[dict[str, bytes | str | None] | None]:
    """Yield the pictures of a data file, some at a time; a column that holds none is a fault."""
    try:
        with pq.ParquetFile(path) as file:
            wrong = wrong_pictures(file.schema_arrow, feature.name)
            if wrong is not None:
                raise ValueError(wrong)
            for batch in file.iter_batches(_PICTURES_AT_ONCE, columns=[feature.name]):
                yield from batch.column(0).to_pylist()
    except (KeyError, OSError, ValueError) as problem:  # arrow's own errors are among them
        reason = first_line(problem)
        findings.fault(
            "image_file",
            f"{path}: the pictures of '{feature.name}' cannot be read: {reason}",
            feature=feature.name,
        )
