"""Small charts: axes with units as text, lines as SVG that stretches to any width.

The drawing area is a square of 1000 × 1000 units that the page stretches; strokes keep their width and
the labels are page text beside it, so that a chart is as readable on a phone as on paper.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from trainer.utils.text import number

SIZE = 1000
COLOURS = 6


@dataclass(frozen=True)
class Tick:
    """A label at `share` (0..1) of an axis."""

    share: float
    label: str


@dataclass(frozen=True)
class Axis:
    """A linear or logarithmic axis from `low` to `high`, both finite and different.

    `below` are labels of a second kind under those of `ticks`, such as the time that a step was made at, and
    `below_name` is what they are.
    """

    low: float
    high: float
    ticks: tuple[Tick, ...]
    log: bool = False
    below: tuple[Tick, ...] = ()
    below_name: str = ""

    def share(self, values: np.ndarray) -> np.ndarray:
        """Map values to 0..1; what lies beyond the axis comes to its end, NaN stays NaN."""
        low, high = self.low, self.high
        with np.errstate(all="ignore"):
            if self.log:
                values = np.log10(np.maximum(values, 1e-320))  # what is not positive comes to the lower end
                low, high = math.log10(low), math.log10(high)
            share = (values - low) / (high - low)
        return np.clip(share, 0.0, 1.0)


@dataclass(frozen=True)
class LegendEntry:
    """One line of the legend; `value` is what the series ends with."""

    label: str
    colour: int
    value: str = ""


@dataclass(frozen=True)
class Chart:
    """A chart ready for the page.

    Attributes:
        title, unit: above the chart and on its y axis.
        drawing: SVG elements in the square of 1000 units.
        hover: JSON that the page's script reads for the read-out, empty when there is none.
        x_word: what the read-out calls a position on the x axis.
        summary: what a reader who cannot see the chart should know.
        notes: sentences below it.
        window: records that each point of a line averages.
    """

    title: str
    unit: str
    x_label: str
    x_axis: Axis
    y_axis: Axis
    drawing: Markup
    legend: tuple[LegendEntry, ...]
    hover: str = ""
    summary: str = ""
    notes: tuple[str, ...] = ()
    window: int = 1
    x_word: str = "step"


def linear_axis(low: float, high: float, ticks: int = 5, percent: bool = False) -> Axis:
    """Return a linear axis that covers low..high with about `ticks` round labels."""
    low, high = (float(np.clip(value, -1e300, 1e300)) for value in (low, high))
    if high <= low:
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    step = _round_step((high - low) / max(1, ticks))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    labels = []
    for index in range(first, last + 1):
        value = index * step
        text = f"{number(100 * value, 3)} %" if percent else number(value, 6)
        labels.append(Tick((value - low) / (high - low), text))
    return Axis(low, high, tuple(labels))


def shared_axis(values: Sequence[np.ndarray]) -> Axis:
    """Return one vertical axis for several lines, so that they can be compared."""
    finite = np.concatenate([value[np.isfinite(value)] for value in values]) if values else np.empty(0)
    if not len(finite):
        return linear_axis(-1.0, 1.0, ticks=4)
    low, high = float(finite.min()), float(finite.max())
    margin = 0.05 * (high - low)
    return linear_axis(low - margin, high + margin, ticks=4)


def log_axis(low: float, high: float) -> Axis:
    """Return a logarithmic axis that covers low..high, both positive."""
    bottom, top = max(math.log10(low), -290.0), min(math.log10(high), 290.0)
    margin = max(0.03 * (top - bottom), 0.1 - (top - bottom) / 2)
    bottom, top = bottom - margin, top + margin
    low, high = 10.0**bottom, 10.0**top
    decades = range(math.floor(bottom), math.ceil(top) + 1)
    if top - bottom > 6:
        stride = math.ceil((top - bottom) / 5)
        values = [10.0**decade for decade in decades if decade % stride == 0]
    else:
        factors: tuple[float, ...] = (1, 10) if top - bottom > 2.5 else (1, 2, 5)
        if top - bottom < 0.7:
            factors = (1, 1.5, 2, 3, 4, 5, 6, 8)
        values = [factor * 10.0**decade for decade in decades for factor in factors]
    values = sorted({float(f"{value:.6g}") for value in values if low <= value <= high})
    return Axis(
        low, high, tuple(Tick((math.log10(v) - bottom) / (top - bottom), number(v)) for v in values), log=True
    )


def lines_chart(
    title: str,
    unit: str,
    x_label: str,
    lines: Sequence[tuple[str, np.ndarray]],
    y_axis: Axis,
    *,
    shaded_from: float | None = None,
    faint_after: int = COLOURS,
    connected: bool = True,
    x: np.ndarray | None = None,
    x_word: str = "",
) -> Chart:
    """Draw sequences over their index, dots on the values of short ones; `shaded_from` marks the padded rest.

    Args:
        lines: label and (N,) values of each line, all of one length.
        faint_after: lines beyond this many are drawn faint in one colour and have no legend entry.
        connected: draw lines; only dots where neighbours on the x axis have nothing to do with each other.
        x: (N,) where the values stand, ascending from 0; their index by default.
        x_word: what the read-out calls a position; without it the chart has no read-out.
    """
    length = len(lines[0][1])
    positions = np.arange(length, dtype=np.float64) if x is None else x.astype(np.float64)
    furthest = float(positions[-1])
    x_axis = linear_axis(0, max(furthest, 1), ticks=min(4, max(1, round(furthest))))
    x_axis = Axis(x_axis.low, x_axis.high, tuple(t for t in x_axis.ticks if "." not in t.label))
    parts = []
    if shaded_from is not None:
        left = int(units(float(x_axis.share(np.array([shaded_from]))[0])))
        parts.append(f'<rect class="shade" x="{left}" y="0" width="{SIZE - left}" height="{SIZE}"/>')
    if y_axis.low < 0 < y_axis.high:
        parts.append(f'<path class="zero" d="M0 {units(1 - float(y_axis.share(np.zeros(1))[0]))}H{SIZE}"/>')
    shares = x_axis.share(positions)
    for position, (_, values) in reversed(list(enumerate(lines))):  # the first line lies on top
        y = y_axis.share(values.astype(np.float64))
        colour = f"c{position}" if position < faint_after else "rest"
        size = "small" if connected or position == 0 else "halo"
        if connected:
            parts.append(f'<path class="line {colour}" d="{line_path(shares, y)}"/>')
        if (length <= 24 or not connected) and position < faint_after:
            dots = "".join(
                f"M{units(a)} {units(1 - b)}h0" for a, b in zip(shares, y, strict=True) if not math.isnan(b)
            )
            parts.append(f'<path class="{size} dot {colour}" d="{dots}"/>')
    return Chart(
        title=title,
        unit=unit,
        x_label=x_label,
        x_axis=x_axis,
        y_axis=y_axis,
        drawing=Markup("".join(parts)),
        legend=tuple(LegendEntry(label, i) for i, (label, _) in enumerate(lines[:faint_after])),
        hover=_hover(lines[:faint_after], positions, shares) if x_word else "",
        summary=f"{title}: {len(lines)} lines of {length} values",
        x_word=x_word or "step",
    )


def _hover(lines: Sequence[tuple[str, np.ndarray]], positions: np.ndarray, shares: np.ndarray) -> str:
    read_outs = [
        {"label": label, "colour": i, "x": rounded(positions), "share": rounded(shares), "y": rounded(values)}
        for i, (label, values) in enumerate(lines)
    ]
    return json.dumps(read_outs, separators=(",", ":"))


def _round_step(step: float) -> float:
    """Round up to 1, 2, 2.5 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= step * 0.999)


def units(share: float) -> str:
    """Write a share of the drawing area in its units."""
    return str(round(share * SIZE))


def line_path(x: np.ndarray, y: np.ndarray) -> str:
    """Return path data through (x, y) in shares, interrupted where y is NaN; a lone point becomes a dot."""
    parts: list[str] = []
    run: list[str] = []
    for a, b in zip(x, y, strict=True):
        if math.isnan(b):
            parts.extend(_stroke(run))
            run = []
        else:
            run.append(f"{units(a)} {units(1 - b)}")
    parts.extend(_stroke(run))
    return "".join(parts)


def _stroke(points: list[str]) -> Iterable[str]:
    if points:
        yield "M" + ("L".join(points) if len(points) > 1 else f"{points[0]}h0")


def band_path(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    """Return path data of the area between low and high, one closed piece for each stretch without NaN."""
    parts = []
    known = ~np.isnan(low)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]]).astype(np.int8)))
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        there = [f"{units(a)} {units(1 - b)}" for a, b in zip(x[start:stop], high[start:stop], strict=True)]
        back = [f"{units(a)} {units(1 - b)}" for a, b in zip(x[start:stop], low[start:stop], strict=True)]
        parts.append("M" + "L".join(there + back[::-1]) + "Z")
    return "".join(parts)


def rounded(values: np.ndarray) -> list[float | None]:
    """Four significant digits for the read-out; JSON has no NaN."""
    return [float(f"{value:.4g}") if math.isfinite(value) else None for value in values.tolist()]
