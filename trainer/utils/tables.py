"""Tables of text: aligned columns, which on a terminal are no wider than it is."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from itertools import zip_longest

_GAP = "  "
_NARROWEST = 12


def table(rows: Sequence[Sequence[str]], left: int | None = None, width: int | None = None) -> list[str]:
    """Return the lines of a table.

    Args:
        rows: of equal length.
        left: so many columns at the left are words, the others numbers, which end below each other; all are
            words by default.
        width: characters of a line; where a row is longer, the texts of its widest columns go on below.
            None: a row is a line, however long.
    """
    columns = len(rows[0])
    words = columns if left is None else left
    widths = [max(len(row[i]) for row in rows) for i in range(columns)]
    available = None if width is None else width - len(_GAP) * (columns - 1)
    while available is not None and sum(widths) > available and max(widths) > _NARROWEST:
        widths[widths.index(max(widths))] -= 1
    lines = []
    for row in rows:
        cells = [_wrapped(cell, width) for cell, width in zip(row, widths, strict=True)]
        for parts in zip_longest(*cells, fillvalue=""):
            aligned = [
                part.ljust(width) if i < words else part.rjust(width)
                for i, (part, width) in enumerate(zip(parts, widths, strict=True))
            ]
            lines.append(_GAP.join(aligned).rstrip())
    return lines


def terminal_width() -> int | None:
    """Return the characters in a line of the terminal that shows stdout; None where it goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _wrapped(cell: str, width: int) -> list[str]:
    """Return a text in lines of `width`; a word that is longer than a line goes on after a `_` or a `/`."""
    if len(cell) <= width:
        return [cell]
    lines = [""]
    for word in cell.split():
        pieces = [word] if len(word) <= width else re.findall(r"[^_/]+[_/]*|[_/]+", word)
        for i, piece in enumerate(pieces):
            gap = " " if i == 0 and lines[-1] else ""
            if len(lines[-1]) + len(gap) + len(piece) > width and lines[-1]:
                lines.append(piece)
            else:
                lines[-1] += gap + piece
            while len(lines[-1]) > width:
                lines[-1:] = [lines[-1][:width], lines[-1][width:]]
    return lines
