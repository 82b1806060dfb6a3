"""How numbers, times and sizes are written on the page."""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Sequence

Interval = tuple[float, float]

MINUS = "\N{MINUS SIGN}"
UNKNOWN = "\N{EN DASH}"


def number(value: float | None, digits: int = 4) -> str:
    """Write a number with `digits` significant digits; NaN and infinity are named, `None` is a dash."""
    if value is None:
        return UNKNOWN
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return f"{MINUS}inf" if value < 0 else "inf"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}".replace("-", MINUS)
    size = abs(value)
    if 1e-4 <= size < 1e6:
        decimals = max(0, digits - 1 - math.floor(math.log10(size)))
        text = f"{value:,.{decimals}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    else:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        if "." in mantissa:
            mantissa = mantissa.rstrip("0").rstrip(".")
        text = f"{mantissa}e{int(exponent)}"
    return text.replace("-", MINUS)


def percent(share: float | None) -> str:
    """Write a share between 0 and 1 in per cent, with one decimal where it has one."""
    return UNKNOWN if share is None else f"{_percent_value(share)} %"


def percent_interval(interval: Interval | None) -> str:
    """Write an interval of shares in per cent: `80.1 to 99.3 %`."""
    if interval is None:
        return UNKNOWN
    return f"{_percent_value(interval[0])} to {_percent_value(interval[1])} %"


def number_interval(interval: Interval | None, digits: int = 3) -> str:
    """Write an interval of plain numbers: `0.91 to 0.94`."""
    if interval is None:
        return UNKNOWN
    return f"{number(interval[0], digits)} to {number(interval[1], digits)}"


def duration(seconds: float | None) -> str:
    """Write a time span in its two largest units: `3 min 20 s`, `2 h 5 min`, `1 d 4 h`."""
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return UNKNOWN
    if seconds < 10:
        return f"{number(round(seconds, 1))} s"
    total = round(seconds)
    minutes, rest_seconds = divmod(total, 60)
    hours, rest_minutes = divmod(minutes, 60)
    days, rest_hours = divmod(hours, 24)
    if days:
        return f"{days:,} d {rest_hours} h"
    if hours:
        return f"{hours} h {rest_minutes} min"
    if minutes:
        return f"{minutes} min {rest_seconds} s"
    return f"{total} s"


def count_short(count: float | None) -> str:
    """Write a large count with its unit letter: `2.03 M`, `417 k`."""
    if count is None:
        return UNKNOWN
    if abs(count) < 1e3:
        return number(count)
    in_units = [(f"{count / 1e3**power:.3g}", unit) for power, unit in enumerate("kMGT", start=1)]
    # 999,700 are no thousand thousands, but a million: what counts is what is shown.
    return " ".join(next((one for one in in_units if abs(float(one[0])) < 1e3), in_units[-1]))


def megabytes(size: int) -> str:
    """Write a number of bytes in MB (10^6 bytes)."""
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size / 1e3:.0f} kB"


def shape(sizes: Sequence[int] | None) -> str:
    """Write the shape of an array: `8 × 16 × 4`, or `scalar`."""
    if sizes is None:
        return UNKNOWN
    return " \N{MULTIPLICATION SIGN} ".join(str(size) for size in sizes) or "scalar"


def offsets(values: Sequence[float]) -> str:
    """Write the frame offsets of a window: `−1 to 0 (2 frames)`."""
    if not values:
        return UNKNOWN
    if len(values) == 1:
        return number(values[0])
    steps = {round(after - before, 9) for before, after in itertools.pairwise(values)}
    if len(steps) > 1:
        return ", ".join(number(value) for value in values)
    stride = steps.pop()
    every = "" if abs(stride) == 1 else f", every {number(abs(stride))}"
    return f"{number(values[0])} to {number(values[-1])}{every} ({len(values)} frames)"


def listed(names: Sequence[str], limit: int = 12) -> str:
    """Join names by commas and count those beyond `limit`."""
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def shell(words: Sequence[str]) -> str:
    """Write a command as one would type it; a long one has a line for each option."""
    line = shlex.join(words)
    if len(line) <= 72:
        return line
    lines: list[list[str]] = [[]]
    for word in words:
        if word.startswith("-") and lines[-1]:
            lines.append([])
        lines[-1].append(word)
    return " \\\n    ".join(shlex.join(part) for part in lines)


def first_line(error: BaseException) -> str:
    """Return what an error of a library says first, or its name where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def what_it_is(value: object) -> str:
    """Return what somebody has returned, for a sentence: `nothing`, `a list`, `a tensor of shape (3,)`."""
    if value is None:
        return "nothing"
    kind, sizes = type(value).__name__, getattr(value, "shape", None)
    of_shape = "" if sizes is None else f" of shape {tuple(sizes)}"
    return f"a {'tensor' if kind == 'Tensor' else kind}{of_shape}"


def _percent_value(share: float) -> str:
    return number(round(100 * share, 1), 4) if math.isfinite(share) else number(share)
