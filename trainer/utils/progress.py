"""The progress bar of every long piece of work."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

from trainer.utils.log import ForgivingStream


def progress_bar(total: int | None, description: str, unit: str = "it", **kwargs: Any) -> tqdm:
    """Return a tqdm bar on stderr: live on a terminal, a line every ten seconds in a log file."""
    stream = ForgivingStream(sys.stderr)
    live = stream.isatty()
    options: dict[str, Any] = {
        "mininterval": 0.1 if live else 10.0,
        "ascii": None if live else " =",
        "dynamic_ncols": live,
        "file": stream,
    }
    return tqdm(total=total, desc=description, unit=unit, **{**options, **kwargs})
