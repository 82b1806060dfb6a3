"""The frames of a camera of a LeRobot dataset, for any rows at once: from video files or parquet images."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from trainer.data.errors import DatasetError
from trainer.data.frame_memory import FrameSource
from trainer.data.lerobot.image_camera import ImageCamera
from trainer.data.lerobot.reader import LeRobotReader
from trainer.data.lerobot.video_camera import VideoCamera


class Camera(FrameSource, Protocol):
    """The frames of one camera over the N rows of a dataset's chosen episodes.

    Attributes:
        key: the feature.
    """

    key: str

    def sources(self) -> list[Path]:
        """Return the files that the frames come from."""
        ...

    def identity(self) -> np.ndarray:
        """Return integers `(N, k)` that say where in the sources each frame is."""
        ...


def open_camera(reader: LeRobotReader, key: str, positions: np.ndarray) -> Camera:
    """Open a camera.

    Args:
        reader: the dataset.
        key: a feature made of frames.
        positions: the chosen episodes, as places in the episode table, ascending.

    Raises:
        DatasetError: there is no such camera, a file is missing, damaged or too short, or the times of its
            frames are not those of the dataset.
    """
    feature = reader.features[key]
    assert feature.is_frames, f"{key} is no camera"
    try:
        return (VideoCamera if feature.dtype == "video" else ImageCamera)(reader, key, positions)
    except DatasetError as problem:
        root = str(reader.root)
        raise problem if str(problem).startswith(root) else DatasetError(f"{root}: {problem}") from None
