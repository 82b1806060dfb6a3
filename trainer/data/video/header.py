"""What the header of a video file says, without decoding a frame."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from trainer.data.errors import DatasetError


@dataclass(frozen=True, eq=False)
class VideoHeader:
    """A video file in numbers.

    Attributes:
        frames: number of frames, 0 where the header does not tell.
        fps: mean frames per second, 0 where the header does not tell.
        height: in pixels.
        width: in pixels.
        codec: such as `h264` or `av1`.
        pix_fmt: such as `yuv420p`.
        keyframes: numbers of the frames that can be decoded without another, int64, ascending; empty where
            the header does not tell.
    """

    frames: int
    fps: float
    height: int
    width: int
    codec: str
    pix_fmt: str
    keyframes: np.ndarray

    @property
    def frames_per_keyframe(self) -> float:
        """Mean distance of keyframes; 1 where the header does not tell."""
        return self.frames / len(self.keyframes) if len(self.keyframes) else 1.0


def read_header(path: Path) -> VideoHeader:
    """Read the header of a video file.

    Raises:
        DatasetError: the file is missing, truncated or no video.
    """
    if not path.is_file():
        raise DatasetError(f"{path}: the video is missing")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DatasetError(f"{path}: there is no video stream in it")
            stream = container.streams.video[0]
            context = stream.codec_context
            if context is None:
                raise DatasetError(f"{path}: the video is damaged, or there is no decoder for it here")
            entries = getattr(stream, "index_entries", ())
            return VideoHeader(
                frames=stream.frames,
                fps=float(stream.average_rate or 0),
                height=context.height,
                width=context.width,
                codec=stream.codec.canonical_name,
                pix_fmt=context.pix_fmt or "",
                # In the order of decoding; before a keyframe come the same frames as in that of showing.
                keyframes=np.flatnonzero([entry.is_keyframe for entry in entries]),
            )
    except (av.FFmpegError, OSError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise DatasetError(
            f"{path}: the video is truncated or damaged and cannot be opened: {reason}"
        ) from None
