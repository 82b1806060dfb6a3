"""The progress bar of every long piece of work."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

from trainer.utils.log import ForgivingStream

_UP = "\x1b[A"
"""What moves the cursor of a terminal up."""


class _Lines:
    """Makes lines of the bar that tqdm redraws in its place, for a log file."""

    def __init__(self, stream: ForgivingStream) -> None:
        self.stream = stream
        self.last = ""

    def write(self, text: str) -> None:
        """Write what is to be seen of a text as a line, unless it is the line before."""
        shown = text.replace(_UP, "").strip()
        if shown and shown != self.last:
            self.stream.write(f"{shown}\n")
            self.last = shown

    def flush(self) -> None:
        """Flush the stream."""
        self.stream.flush()


def progress_bar(total: int | None, description: str, unit: str = "it", **kwargs: Any) -> tqdm:
    """Return a tqdm bar on stderr: live on a terminal, a line every ten seconds in a log file."""
    stream = ForgivingStream(sys.stderr)
    live = stream.isatty()
    options: dict[str, Any] = {
        "mininterval": 0.1 if live else 10.0,
        "ascii": None if live else " =",
        "dynamic_ncols": live,
        "file": stream if live else _Lines(stream),
    }
    return tqdm(total=total, desc=description, unit=unit, **{**options, **kwargs})
