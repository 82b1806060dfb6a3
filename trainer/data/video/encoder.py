"""Writing videos whose every frame is near a keyframe, so that a random one is decoded fast."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import numpy as np

GOP: Final = 2
"""Frames per keyframe. A random frame of 480×640 h264 takes about 1 ms so, with the usual 250 about 15 ms."""

CRF: Final = 30
"""Constant quality of the encoder; higher is smaller and worse."""

AV1: Final = "libsvtav1"
H264: Final = "libx264"
_SMALLEST_AV1 = 64
_THREADS: Final = "/proc/self/task"

# x264's macroblock tree reads memory that it has not written where frames are small: of 300 films of 32 × 48
# pixels one to three had other bytes. With a keyframe in every second frame there is no tree to speak of. Its
# scale of quality is not that of AV1; small frames lose more to it.
_OPTIONS: Final = {AV1: {}, H264: {"bf": "0", "preset": "veryfast", "mbtree": "0", "crf": "26"}}


def choose_encoder(height: int, width: int) -> str:
    """Return the encoder for frames of a size: AV1 if the installed PyAV has it, which decodes fastest.

    Raises:
        RuntimeError: PyAV has no encoder for them.
    """
    if min(height, width) >= _SMALLEST_AV1 and AV1 in av.codecs_available:
        return AV1
    if H264 in av.codecs_available:
        return H264
    raise RuntimeError(f"the installed PyAV has neither {AV1} nor {H264} (its wheels from PyPI have both)")


@contextlib.contextmanager
def _same_scheduling() -> Iterator[None]:
    """Let this thread, and those that are begun here, be scheduled as this one is.

    Where it may, as for root, the AV1 encoder makes its threads and its opener real-time ones, for good.
    """
    if not hasattr(os, "sched_setscheduler"):
        yield
        return
    policy, priority, before = os.sched_getscheduler(0), os.sched_getparam(0), set(os.listdir(_THREADS))
    yield
    for thread in {*os.listdir(_THREADS)} - before | {str(threading.get_native_id())}:
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            if os.sched_getscheduler(int(thread)) != policy:
                os.sched_setscheduler(int(thread), policy, priority)


class VideoEncoder:
    """One mp4 file that grows by frames.

    Args:
        path: the file.
        fps: frames per second.
        height: of the frames, even: yuv420p halves the colours' resolution.
        width: the same.
        encoder: what `choose_encoder` returned.
        options: of the encoder, by its own names, instead of those that make random frames cheap.

    Attributes:
        frames: number of frames so far.
        size: bytes that have left the encoder so far.
    """

    def __init__(
        self,
        path: Path,
        fps: float,
        height: int,
        width: int,
        encoder: str,
        options: Mapping[str, str] | None = None,
    ) -> None:
        os.environ.setdefault("SVT_LOG", "1")  # else the AV1 encoder prints its settings
        self.path = path
        self.frames = self.size = 0
        rate = Fraction(fps).limit_denominator(100_000)
        self._container = av.open(str(path), "w", format="mp4")
        if options is None:
            options = {"g": str(GOP), "crf": str(CRF), **_OPTIONS.get(encoder, {})}
        stream: Any = self._container.add_stream(encoder, rate=rate, options=dict(options))
        self._stream = stream
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        self._base = 1 / rate
        self._stream.codec_context.time_base = self._base
        with _same_scheduling():
            self._stream.codec_context.open()

    def add(self, frame: np.ndarray) -> None:
        """Append a frame, uint8 `(H, W, 3)`."""
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture.pts, picture.time_base = self.frames, self._base
        self._write(self._stream.encode(picture))
        self.frames += 1

    def close(self) -> None:
        """Write what is left, and the index of the file."""
        if self.frames:
            self._write(self._stream.encode(None))
        self._container.close()

    def _write(self, packets: list[av.Packet]) -> None:
        self.size += sum(packet.size for packet in packets)
        self._container.mux(packets)
