"""The progress bar of every long piece of work."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


def progress_bar(total: int | None, description: str, unit: str = "it", **kwargs: Any) -> tqdm:
    """Return a tqdm bar on stderr: live on a terminal, a line every ten seconds in a log file."""
    live = sys.stderr.isatty()
    options: dict[str, Any] = {
        "mininterval": 0.1 if live else 10.0,
        "ascii": None if live else " =",
        "dynamic_ncols": live,
        "file": sys.stderr,
    }
    return tqdm(total=total, desc=description, unit=unit, **{**options, **kwargs})
