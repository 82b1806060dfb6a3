"""The videos of one camera while a dataset is written: episodes end to end, a new file when one is full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.errors import DatasetError
from trainer.data.lerobot.info import FILES_PER_CHUNK, VIDEO_PATH, Feature
from trainer.data.video.encoder import VideoEncoder, choose_encoder
from trainer.data.video.header import read_header
from trainer.data.video.statistics import FrameStatistics


class VideoFiles:
    """Writes the frames of a camera, episode after episode.

    Args:
        folder: the dataset's folder.
        feature: the camera, of shape (H, W, 3).
        fps: frames per second.
        encoder: the encoder, of PyAV's names; the best one there is by default.
        options: the encoder's options; by default those that make random frames cheap.
        file_mb: a file is closed before an episode as long as its others would take it beyond this.

    Attributes:
        statistics: of all frames so far.
    """

    def __init__(
        self,
        folder: Path,
        feature: Feature,
        fps: float,
        encoder: str | None,
        options: Mapping[str, str] | None,
        file_mb: float,
    ) -> None:
        self._folder, self._feature, self._fps, self._file_mb = folder, feature, fps, file_mb
        self._options = options
        height, width = feature.shape[:2]
        try:
            self._encoder = encoder or choose_encoder(height, width)
        except RuntimeError as problem:
            raise DatasetError(f"{folder}: '{feature.name}' cannot be encoded: {problem}") from None
        self._open: VideoEncoder | None = None
        self._files = 0
        self.statistics = FrameStatistics()

    def add(self, frames: Sequence[np.ndarray], where: str) -> dict[str, Any]:
        """Append an episode, and return what the episode table says of it.

        Args:
            frames: uint8 `(H, W, 3)` each; asked for one at a time.
            where: the episode, for messages.
        """
        if self._open is None or self._is_full(len(frames)):
            self._begin_file()
        encoder = self._open
        assert encoder is not None
        begin, counted = encoder.frames, FrameStatistics()
        for number in range(len(frames)):
            frame = np.asarray(frames[number])
            if frame.shape != self._feature.shape or frame.dtype != np.uint8:
                raise DatasetError(
                    f"{where}: frame {number} of '{self._feature.name}' is {frame.dtype} {frame.shape}, it "
                    f"should be uint8 {self._feature.shape}"
                )
            encoder.add(frame)
            counted.add(frame)
        self.statistics.merge(counted)
        prefix, place = f"videos/{self._feature.name}", self._files - 1
        row: dict[str, Any] = {
            f"{prefix}/chunk_index": place // FILES_PER_CHUNK,
            f"{prefix}/file_index": place % FILES_PER_CHUNK,
            f"{prefix}/from_timestamp": begin / self._fps,
            f"{prefix}/to_timestamp": encoder.frames / self._fps,
        }
        for name, array in counted.result().items():
            row[f"stats/{self._feature.name}/{name}"] = array.tolist()
        return row

    def close(self) -> None:
        """Finish the file that is open."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def info(self) -> dict[str, Any]:
        """Return what `info.json` says of the videos, as their own header has it."""
        header = read_header(self._path(0))
        return {
            "video.height": header.height,
            "video.width": header.width,
            "video.codec": header.codec,
            "video.pix_fmt": header.pix_fmt,
            "video.is_depth_map": False,
            "video.fps": self._fps,
            "video.channels": 3,
            "has_audio": False,
        }

    def _is_full(self, coming: int) -> bool:
        assert self._open is not None
        return self._open.size * (1 + coming / self._open.frames) >= self._file_mb * 2**20

    def _begin_file(self) -> None:
        self.close()
        path = self._path(self._files)
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width = self._feature.shape[:2]
        self._open = VideoEncoder(path, self._fps, height, width, self._encoder, self._options)
        self._files += 1

    def _path(self, place: int) -> Path:
        return self._folder / VIDEO_PATH.format(
            video_key=self._feature.name,
            chunk_index=place // FILES_PER_CHUNK,
            file_index=place % FILES_PER_CHUNK,
        )
