"""Films of episodes that every browser plays."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
import numpy as np

from trainer.utils.files import whole_file

_CODEC: Final = "libx264"


def write_video(path: Path, frames: Sequence[np.ndarray], fps: float) -> None:
    """Write an mp4, whole or not at all: h264, yuv420p, index first so that it plays while it loads.

    Args:
        path: the file.
        frames: uint8 `(H, W, 3)`, all of one size; an odd last row or column is cut off, as yuv420p
            halves the colours' resolution.
        fps: frames per second.

    Raises:
        ValueError: there are no frames.
        RuntimeError: PyAV was built without an h264 encoder.
    """
    if not frames:
        raise ValueError(f"{path} would be a film without frames")
    if _CODEC not in av.codecs_available:
        raise RuntimeError(f"the installed PyAV was built without {_CODEC} (its wheels from PyPI have it)")
    height, width = (n - n % 2 for n in frames[0].shape[:2])
    with (
        whole_file(path) as temporary,
        av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as container,
    ):
        stream = container.add_stream(_CODEC, rate=Fraction(fps).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        # One thread: rollouts share the machine; "veryfast" costs a tenth more bytes and a third of the time.
        stream.options = {"preset": "veryfast", "crf": "23", "threads": "1"}
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
