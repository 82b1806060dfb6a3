"""Film strips: a few frames of an episode side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from trainer.data.errors import DatasetError
from trainer.data.lerobot import LeRobotReader
from trainer.data.lerobot.cameras import open_camera
from trainer.data.lerobot.video_camera import video_places
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


def film_strip(reader: LeRobotReader, camera: str, position: int) -> Strip:
    """Return evenly spaced frames, first and last included, of the episode at a place of the table."""
    length = int(reader.episodes.length[position])
    chosen = np.unique(np.linspace(0, length - 1, FRAMES).round().astype(int))
    try:
        if reader.features[camera].dtype == "video":
            pictures = _from_video(reader, camera, position, chosen)
        else:
            frames = open_camera(reader, camera, np.array([position])).read(chosen)
            pictures = [Image.fromarray(frame) for frame in frames.transpose(0, 2, 3, 1)]
    except DatasetError as problem:
        return Strip(camera, tuple(chosen.tolist()), None, str(problem))
    scaled = [_scaled(picture) for picture in pictures]
    return Strip(camera, tuple(chosen.tolist()), jpeg_uri(Image.fromarray(np.concatenate(scaled, axis=1))))


def _from_video(reader: LeRobotReader, camera: str, position: int, chosen: np.ndarray) -> list[Image.Image]:
    (path,), _, (begin,) = video_places(reader, camera, np.array([position]))
    numbers = [round(begin * reader.fps) + int(frame) for frame in chosen]
    try:
        return [Image.fromarray(frame) for frame in POOL.frames(path, reader.fps, numbers)[0]]
    except DECODE_ERRORS as problem:
        reason = first_line(problem)
    single = [_one_frame(path, reader.fps, n) for n in numbers]
    sound = next((picture for picture in single if picture is not None), None)
    if sound is None:
        raise DatasetError(f"{path} cannot be decoded here: {reason}")
    # What is damaged or missing is black.
    return [picture or Image.new("RGB", sound.size) for picture in single]


def _one_frame(path: Path, fps: float, frame: int) -> Image.Image | None:
    try:
        return Image.fromarray(POOL.frames(path, fps, [frame])[0][0])
    except DECODE_ERRORS:
        return None


def _scaled(picture: Image.Image) -> np.ndarray:
    width = max(1, round(picture.width * HEIGHT / picture.height))
    return np.asarray(picture.convert("RGB").resize((width, HEIGHT)))
