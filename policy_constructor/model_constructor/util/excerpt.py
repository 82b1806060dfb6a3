"""The lines of a file around a position, as text to print below an error."""

from __future__ import annotations

from pathlib import Path

from model_constructor.config.source_map import SourceLocation

WIDTH = 96


def excerpt(location: SourceLocation, context: int = 0) -> str:
    """Up to `context` lines above and as many below the position, the position marked with a caret.

    Of long lines the part around the position is shown. Empty when there is no such line (any more).
    """
    try:
        path = Path(location.file)
        lines = path.read_text(encoding="utf-8-sig").split("\n") if location.line and path.is_file() else []
        lines = lines[:-1] if lines and not lines[-1] else lines
    except (OSError, ValueError):
        return ""
    if not 1 <= location.line <= len(lines):
        return ""
    first = max(1, location.line - context)
    last = min(len(lines), location.line + context)
    width = len(str(last))
    left = max(0, location.col - 1 - WIDTH // 2) if len(lines[location.line - 1]) > WIDTH else 0
    shown = []
    for number in range(first, last + 1):
        line = lines[number - 1].rstrip()
        shown.append(f"  {number:>{width}} | {_cut(line, left)}")
        if number == location.line:
            before = "…" * bool(left) + line[left : location.col - 1]
            padding = "".join("\t" if letter == "\t" else " " for letter in before)
            shown.append(f"  {'':>{width}} | {padding}^")
    return "\n".join(shown)


def _cut(line: str, left: int) -> str:
    part = line[left : left + WIDTH]
    return f"{'…' * bool(left)}{part}{'…' * (left + WIDTH < len(line))}"
