"""Frames of a video file by their numbers, many in one call: torchcodec where it loads, else PyAV."""

from __future__ import annotations

import bisect
import contextlib
import functools
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import av
import numpy as np

from trainer.data.video.header import TOLERANCE, frame_times, nearest, off_time
from trainer.utils.text import first_line

_log = logging.getLogger(__name__)

Backend = Literal["torchcodec", "PyAV"]

DECODE_ERRORS: tuple[type[Exception], ...] = (RuntimeError, ValueError, IndexError, OSError, av.FFmpegError)
"""What opening or decoding a damaged file may raise, whichever library does it."""

MAX_OPEN = 64
"""Decoders kept open in a process; each holds a few frames and the index of its file."""


class FrameDecoder(Protocol):
    """One open video file."""

    def frames(self, numbers: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Decode frames, turned as the file says that they are to be shown.

        Args:
            numbers: frame numbers, ascending, each once; frame n is the one that is shown at n/fps seconds.

        Returns:
            uint8 `(n, H, W, 3)`, and the times that the file gives them in seconds, float64 `(n,)`; where
            `off_time` tells so, it is another frame.
        """
        ...


@functools.cache
def backend() -> Backend:
    """Return which library decodes in this process."""
    try:
        # Loads ffmpeg's shared libraries, which may not be there.
        import torchcodec.decoders  # noqa: F401
    except (ImportError, OSError, RuntimeError) as problem:
        reason = first_line(problem)
        _log.warning(
            "videos are decoded by PyAV, several times slower than by torchcodec, which does not load here "
            "(%s); it needs ffmpeg's libraries and pip install 'torchcodec<0.14'",
            reason,
        )
        return "PyAV"
    _log.info("videos are decoded by torchcodec")
    return "torchcodec"


def open_decoder(path: Path, fps: float, library: Backend | None = None) -> FrameDecoder:
    """Open a video file.

    Args:
        path: the file.
        fps: its frames per second.
        library: which one decodes; `backend()` by default.

    Raises:
        Exception: one of `DECODE_ERRORS`, if the file is no video or is damaged.
    """
    return _Torchcodec(path, fps) if (library or backend()) == "torchcodec" else _PyAV(path, fps)


class _Torchcodec:
    """Frames are looked up by the rate in the file's header, which spares reading the whole file first.

    Where that leads to another frame, as it does where frames are shown before the keyframe which they follow
    in the file (H.265, MPEG-2), the file is read once after all, and frames are looked up by their times.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self._path, self._fps = path, fps
        self._times: np.ndarray | None = None
        self._decoder = self._opened("approximate")

    def _opened(self, mode: Literal["approximate", "exact"]) -> Any:
        from torchcodec.decoders import VideoDecoder

        # One thread: the parallelism is in the worker processes, and a random frame gives threads nothing.
        return VideoDecoder(str(self._path), seek_mode=mode, num_ffmpeg_threads=1, dimension_order="NHWC")

    def frames(self, numbers: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        if self._times is None:
            with contextlib.suppress(RuntimeError, IndexError):
                frames, times = self._at(numbers)
                if not off_time(times, numbers, self._fps).any():
                    return frames, times
            self._times, self._decoder = frame_times(self._path), self._opened("exact")
        places = nearest(self._times, np.asarray(numbers) / self._fps)
        if len(places) and numbers[-1] > self._times[-1] * self._fps + TOLERANCE:
            raise IndexError("the video ends before it")
        return self._at(places)

    def _at(self, places: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        batch = self._decoder.get_frames_at([int(place) for place in places])
        return batch.data.numpy(), batch.pts_seconds.numpy()


class _PyAV:
    """Decodes on from the nearest keyframe before each frame that is wanted."""

    def __init__(self, path: Path, fps: float) -> None:
        self._container = av.open(str(path))
        self._stream = self._container.streams.video[0]
        self._stream.codec_context.thread_count = 1
        base = self._stream.time_base
        assert base is not None, "a video stream has a time base"
        self._base = base
        self._step = 1 / (fps * base)
        packets = [packet for packet in self._container.demux(self._stream) if packet.pts is not None]
        self._keyframes = sorted(int(packet.pts or 0) for packet in packets if packet.is_keyframe)
        self._decoded: Any = None
        self._at: int | None = None

    def frames(self, numbers: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        pictures, times = [], []
        for number in numbers:
            wanted = round(number * self._step)
            frame = self._frame_at(wanted)
            pictures.append(_upright(frame))
            times.append(float(frame.pts * self._base))
        return np.stack(pictures), np.array(times)

    def _frame_at(self, wanted: int) -> Any:
        """Return the frame that is shown at a time, in units of the stream."""
        half = max(int(self._step / 2), 1)
        place = bisect.bisect_right(self._keyframes, wanted + half - 1) - 1
        if place < 0:
            raise ValueError("there is no keyframe before it")
        # Going back, or past a keyframe that lies between, costs a seek; going on costs only decoding.
        if self._at is None or wanted <= self._at or self._at < self._keyframes[place]:
            self._container.seek(self._keyframes[place], stream=self._stream)
            self._decoded = self._container.decode(self._stream)
        for frame in self._decoded:
            assert frame.pts is not None, "frames of a file with timestamps"
            self._at = frame.pts
            if frame.pts >= wanted - half + 1:
                return frame
        self._at = None
        raise IndexError("the video ends before it")


def _upright(frame: Any) -> np.ndarray:
    """Return a frame as a player shows it, uint8 `(H, W, 3)`."""
    quarters = round(frame.rotation / 90)
    return np.rot90(frame.to_ndarray(format="rgb24"), quarters)


class DecoderPool:
    """The decoders that a process holds open, the least used of which makes way for a new one.

    Several threads may decode at once, also in one file; each then has a decoder of its own. A decoder is
    not shared with a child process: both would move the same place in the file.
    """

    def __init__(self, size: int = MAX_OPEN) -> None:
        self._size = size
        self._idle: OrderedDict[tuple[Path, Backend], list[FrameDecoder]] = OrderedDict()
        self._lock = threading.Lock()
        self._inherited: list[Any] = []
        os.register_at_fork(after_in_child=self._forget)

    def frames(self, path: Path, fps: float, numbers: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return what `FrameDecoder.frames` of a file returns; raises one of `DECODE_ERRORS`."""
        key = (path, backend())
        decoder = self._take(key)
        if decoder is None:
            decoder = open_decoder(path, fps, key[1])
        # A decoder that failed may be in any state, so it is kept only if it did not.
        found = decoder.frames(numbers)
        self._keep(key, decoder)
        return found

    def _take(self, key: tuple[Path, Backend]) -> FrameDecoder | None:
        with self._lock:
            idle = self._idle.pop(key, None)
            if idle is None:
                return None
            decoder = idle.pop()
            if idle:
                self._idle[key] = idle
            return decoder

    def _keep(self, key: tuple[Path, Backend], decoder: FrameDecoder) -> None:
        with self._lock:
            self._idle.setdefault(key, []).append(decoder)
            self._idle.move_to_end(key)
            while sum(map(len, self._idle.values())) > self._size:
                oldest, idle = next(iter(self._idle.items()))
                idle.pop()
                if not idle:
                    del self._idle[oldest]

    def _forget(self) -> None:
        # Closing what the parent opened could wait for its threads, which do not exist here.
        self._inherited.append(self._idle)
        self._idle, self._lock = OrderedDict(), threading.Lock()


POOL = DecoderPool()
"""The decoders of this process."""
