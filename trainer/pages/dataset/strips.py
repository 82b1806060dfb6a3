"""Film strips: a few frames of an episode side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trainer.data.errors import DatasetError
from trainer.data.inspection.cameras import video_place
from trainer.data.inspection.rows import Rows, read_pictures
from trainer.data.lerobot import LeRobotReader
from trainer.data.lerobot.image_camera import stored_picture
from trainer.data.video.decoder import DECODE_ERRORS, POOL
from trainer.pages.parts.pictures import jpeg_uri
from trainer.utils.text import first_line

FRAMES = 8
HEIGHT = 120


@dataclass(frozen=True)
class Strip:
    """The frames of one camera in one episode: a picture as a URI, or the reason why there is none."""

    camera: str
    frames: tuple[int, ...]
    uri: str | None
    reason: str = ""


def film_strip(reader: LeRobotReader, rows: Rows | None, camera: str, position: int) -> Strip:
    """Return evenly spaced frames, first and last included, of the episode at a place of the table."""
    length = int(reader.episodes.length[position])
    chosen = np.unique(np.linspace(0, length - 1, FRAMES).round().astype(int))
    try:
        if reader.features[camera].dtype == "video":
            pictures = _from_video(reader, camera, position, chosen)
        else:
            pictures = _from_data_files(reader, rows, camera, position, chosen)
    except DatasetError as problem:
        return Strip(camera, tuple(chosen.tolist()), None, str(problem))
    scaled = [_scaled(picture) for picture in pictures]
    return Strip(camera, tuple(chosen.tolist()), jpeg_uri(Image.fromarray(np.concatenate(scaled, axis=1))))


def _from_video(reader: LeRobotReader, camera: str, position: int, chosen: np.ndarray) -> list[Image.Image]:
    place = video_place(reader, camera, position)
    numbers = [round(place.begin * reader.fps) + int(frame) for frame in chosen]
    try:
        return [Image.fromarray(frame) for frame in POOL.frames(place.path, reader.fps, numbers)[0]]
    except DECODE_ERRORS as problem:
        reason = first_line(problem)
    single = [_one_frame(place.path, reader.fps, n) for n in numbers]
    sound = next((picture for picture in single if picture is not None), None)
    if sound is None:
        raise DatasetError(f"{place.path} cannot be decoded here: {reason}")
    # What is damaged or missing is black.
    return [picture or Image.new("RGB", sound.size) for picture in single]


def _one_frame(path: Path, fps: float, frame: int) -> Image.Image | None:
    try:
        return Image.fromarray(POOL.frames(path, fps, [frame])[0][0])
    except DECODE_ERRORS:
        return None


def _from_data_files(
    reader: LeRobotReader, rows: Rows | None, camera: str, position: int, chosen: np.ndarray
) -> list[Image.Image]:
    number = int(reader.episodes.episode_index[position])
    wanted = rows.rows_of(number) if rows is not None else np.empty(0, np.int64)
    if rows is None or len(wanted) <= chosen[-1]:
        raise DatasetError(f"episode {number} does not have all its rows")
    wanted = wanted[chosen]
    pictures: dict[int, Image.Image] = {}
    begin = 0
    for path, count in zip(rows.paths, rows.counts, strict=True):
        inside = [int(row) for row in wanted if begin <= row < begin + count]
        if inside:
            cells = _cells(path, camera)
            for row in inside:
                pictures[row] = _decoded(cells[row - begin], reader, camera, number)
        begin += count
    return [pictures[int(row)] for row in wanted]


def _cells(path: Path, camera: str) -> list[Any]:
    try:
        return read_pictures(path, camera)
    except (KeyError, OSError, ValueError) as problem:  # arrow's own errors are among them
        raise DatasetError(f"{path}: the pictures of '{camera}' cannot be read: {problem}") from None


def _decoded(cell: Any, reader: LeRobotReader, camera: str, number: int) -> Image.Image:
    try:
        shape = reader.features[camera].frame_shape
        return Image.fromarray(stored_picture(cell, reader.root, shape))
    except DatasetError:
        raise
    except ValueError as problem:
        raise DatasetError(f"a picture of episode {number} cannot be read: {problem}") from None


def _scaled(picture: Image.Image) -> np.ndarray:
    width = max(1, round(picture.width * HEIGHT / picture.height))
    return np.asarray(picture.convert("RGB").resize((width, HEIGHT)))
