"""What a video file says of its frames, without decoding them: size, rate, keyframes, times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from trainer.data.errors import DatasetError

TOLERANCE = 0.25
"""How far a frame may be shown from its time, as a share of a frame: rates and clocks are rounded numbers."""


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
        steady: whether the header tells that every frame lasts as long as the others.
    """

    frames: int
    fps: float
    height: int
    width: int
    codec: str
    pix_fmt: str
    keyframes: np.ndarray
    steady: bool

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
            # Some containers list their keyframes only.
            entries = entries if len(entries) == stream.frames else ()
            return VideoHeader(
                frames=stream.frames,
                fps=float(stream.average_rate or 0),
                height=context.height,
                width=context.width,
                codec=stream.codec.canonical_name,
                pix_fmt=context.pix_fmt or "",
                # In the order of decoding; before a keyframe come the same frames as in that of showing.
                keyframes=np.flatnonzero([entry.is_keyframe for entry in entries]),
                steady=_is_steady(np.array([entry.timestamp for entry in entries], np.float64)),
            )
    except (av.FFmpegError, OSError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise DatasetError(
            f"{path}: the video is truncated or damaged and cannot be opened: {reason}"
        ) from None


def _is_steady(times: np.ndarray) -> bool:
    """Tell whether times `(n,)`, in the order of decoding, are evenly spaced but for rounding."""
    if not len(times):
        return False
    even = np.linspace(times[0], times[-1], len(times))
    step = (times[-1] - times[0]) / max(len(times) - 1, 1)
    return bool(np.abs(times - even).max() <= TOLERANCE / 2 * step)


def frame_times(path: Path, decode: bool = False) -> np.ndarray:
    """Return the times of all frames of a video in seconds, float64, ascending.

    Args:
        path: the file, all of which is read.
        decode: decode it as well, and return the times of those frames that can be.

    Raises:
        DatasetError: the file is truncated or damaged.
    """
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            read = container.decode(stream) if decode else container.demux(stream)
            stamps = [item.pts for item in read if item.pts is not None]
            base = float(stream.time_base or 0)
    except (av.FFmpegError, OSError, ValueError, IndexError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise DatasetError(f"{path}: the video is truncated or damaged: {reason}") from None
    return np.sort(np.array(stamps, np.float64)) * base


def off_time(times: np.ndarray, numbers: Sequence[int] | np.ndarray, fps: float) -> np.ndarray:
    """Tell which frames are not the ones with these numbers, by their times in seconds: bool `(n,)`."""
    off: np.ndarray = np.abs(times * fps - np.asarray(numbers)) > TOLERANCE
    return off


def nearest(times: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the places of the frames that are shown nearest to `wanted`, in seconds: int64 `(n,)`."""
    above = np.minimum(np.searchsorted(times, wanted), len(times) - 1)
    below = np.maximum(above - 1, 0)
    place: np.ndarray = np.where(np.abs(wanted - times[below]) <= np.abs(times[above] - wanted), below, above)
    return place


def frame_rate(times: np.ndarray, expected: float) -> float:
    """Return the frames per second of frames with these times: by their mean or their usual distance.

    Frames that are missing change the one, rounded times the other; the one nearer to what is `expected`
    counts, as does that itself where there are too few frames to tell.
    """
    gaps = np.diff(times)
    found = [1 / float(gap) for gap in (gaps.mean(), np.median(gaps)) if gap > 0] if len(gaps) else []
    return min(found, key=lambda rate: abs(rate - expected), default=expected)


def misplaced(times: np.ndarray, numbers: np.ndarray, fps: float) -> tuple[np.ndarray, np.ndarray]:
    """Tell which frames a video has not got at their times, or only behind others that nobody knows of.

    Args:
        times: of all frames of the video in seconds, ascending.
        numbers: int64 `(n,)`, ascending; frame n is to be shown at n/fps seconds.
        fps: frames per second.

    Returns:
        bool `(n,)`, and the times of the nearest frames in seconds, float64 `(n,)`.
    """
    if not len(times):
        return np.ones(len(numbers), bool), np.full(len(numbers), np.nan)
    place = nearest(times, numbers / fps)
    wrong = off_time(times[place], numbers, fps)
    between = (np.diff(place, prepend=place[:1]) != np.diff(numbers, prepend=numbers[:1])) & ~wrong
    between[1:] &= ~wrong[:-1] & (np.diff(numbers) == 1)
    return wrong | between, times[place]


def frame_size(path: Path) -> tuple[int, int]:
    """Return height and width of the first frame, turned as it is shown.

    Raises:
        DatasetError: it cannot be decoded.
    """
    try:
        with av.open(str(path)) as container:
            frame = next(container.decode(container.streams.video[0]))
    except (av.FFmpegError, OSError, ValueError, IndexError, StopIteration) as problem:
        reason = getattr(problem, "strerror", None) or str(problem) or "there is no frame in it"
        raise DatasetError(f"{path}: the first frame cannot be decoded: {reason}") from None
    turned = round(frame.rotation / 90) % 2 == 1
    return (frame.width, frame.height) if turned else (frame.height, frame.width)
