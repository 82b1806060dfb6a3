"""The lines of a file around a position, as text to print below an error."""

from __future__ import annotations

from pathlib import Path

from model_constructor.config.source_map import SourceLocation


def excerpt(location: SourceLocation, context: int) -> str:
    """Up to `context` lines above and as many below the position, the position marked with a caret.

    Empty when the file cannot be read (any more).
    """
    try:
        lines = Path(location.file).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return ""
    if not 1 <= location.line <= len(lines):
        return ""
    first = max(1, location.line - context)
    last = min(len(lines), location.line + context)
    width = len(str(last))
    shown = [location.format()]
    for number in range(first, last + 1):
        shown.append(f"  {number:>{width}} | {lines[number - 1]}")
        if number == location.line:
            shown.append(f"  {'':>{width}} | {' ' * (location.col - 1)}^")
    return "\n".join(shown)
