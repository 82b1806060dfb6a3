"""Small charts: axes with units as text, lines as SVG that stretches to any width.

The drawing area is a square of 1000 × 1000 units that the page stretches; strokes keep their width and
the labels are page text beside it, so that a chart is as readable on a phone as on paper.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from trainer.evaluation.report.metrics import Curve
from trainer.evaluation.report.text import Interval, number

SIZE = 1000
COLOURS = 6


@dataclass(frozen=True)
class Tick:
    """A label at `share` (0..1) of an axis."""

    share: float
    label: str


@dataclass(frozen=True)
class Axis:
    """A linear or logarithmic axis from `low` to `high`, both finite and different."""

    low: float
    high: float
    ticks: tuple[Tick, ...]
    log: bool = False

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


def curve_chart(
    title: str,
    unit: str,
    curves: Sequence[Curve],
    x_axis: Axis,
    *,
    log: bool = False,
    percent: bool = False,
    labels: Sequence[str] = (),
) -> Chart:
    """Draw thinned series: the records as a faint line or envelope, their moving average on top."""
    notes = []
    if log and any(np.fmin.reduce(curve.mean, initial=np.inf) <= 0 for curve in curves):
        log = False
        notes.append("Linear axis, because not all values are positive.")
    y_axis = _value_axis(curves, log, percent)
    labels = labels or [curve.name for curve in curves]
    parts: list[str] = []
    for position, curve in enumerate(curves):
        x, low, high = x_axis.share(curve.steps), y_axis.share(curve.low), y_axis.share(curve.high)
        colour = position % COLOURS
        if np.array_equal(low, high, equal_nan=True):
            if curve.window > 1:
                parts.append(f'<path class="raw c{colour}" d="{_line(x, low)}"/>')
        else:
            parts.append(f'<path class="band c{colour}" d="{_band(x, low, high)}"/>')
    for position, curve in enumerate(curves):
        line = _line(x_axis.share(curve.steps), y_axis.share(curve.mean))
        parts.append(f'<path class="line c{position % COLOURS}" d="{line}"/>')
    for label, curve in zip(labels, curves, strict=True):
        if curve.broken:
            marks = " ".join(f"M{_units(share)} 0v60" for share in x_axis.share(curve.broken_steps))
            parts.append(f'<path class="broken" d="{marks}"/>')
            what = "value is" if curve.broken == 1 else "values are"
            first = number(float(curve.broken_steps[0]))
            notes.append(
                f"{label}: {curve.broken:,} {what} NaN or infinite, first at step {first} (marks at the top)."
            )
    hover = [
        {
            "label": label,
            "colour": position % COLOURS,
            "percent": percent,
            "x": [float(step) for step in curve.steps],
            "share": _rounded(x_axis.share(curve.steps)),
            "y": _rounded(curve.mean),
            "low": _rounded(curve.low) if curve.window > 1 else None,
            "high": _rounded(curve.high) if curve.window > 1 else None,
        }
        for position, (label, curve) in enumerate(zip(labels, curves, strict=True))
    ]
    return Chart(
        title=title,
        unit=unit,
        x_label="training step",
        x_axis=x_axis,
        y_axis=y_axis,
        drawing=Markup("".join(parts)),
        legend=tuple(
            LegendEntry(label, position % COLOURS, _last(curve, percent))
            for position, (label, curve) in enumerate(zip(labels, curves, strict=True))
        ),
        hover=json.dumps(hover, separators=(",", ":")),
        summary="; ".join(_summary(label, curve) for label, curve in zip(labels, curves, strict=True)),
        notes=tuple(notes),
        window=max(curve.window for curve in curves),
    )


@dataclass(frozen=True)
class Estimate:
    """A measured value at a training step, with its 95 % interval where there is one."""

    step: float
    value: float
    interval: Interval | None


def estimate_chart(
    title: str,
    unit: str,
    groups: Mapping[str, Sequence[Estimate]],
    x_axis: Axis,
    y_axis: Axis,
    *,
    percent: bool,
) -> Chart:
    """Draw measured values with interval bars, one colour for each group."""
    parts: list[str] = []
    hover = []
    for position, (label, estimates) in enumerate(groups.items()):
        colour = position % COLOURS
        x = x_axis.share(np.array([estimate.step for estimate in estimates]))
        y = y_axis.share(np.array([estimate.value for estimate in estimates]))
        bounds = [estimate.interval or (math.nan, math.nan) for estimate in estimates]
        low, high = (np.array(bound) for bound in zip(*bounds, strict=True))
        bars = "".join(
            f"M{_units(a)} {_units(1 - b)}V{_units(1 - c)}"
            for a, b, c in zip(x, y_axis.share(low), y_axis.share(high), strict=True)
            if not math.isnan(b + c)
        )
        dots = "".join(f"M{_units(a)} {_units(1 - b)}h0" for a, b in zip(x, y, strict=True))
        parts.append(f'<path class="interval c{colour}" d="{bars}"/>')
        parts.append(
            f'<path class="thin c{colour}" d="{_line(x, y)}"/><path class="dot c{colour}" d="{dots}"/>'
        )
        hover.append(
            {
                "label": label,
                "colour": colour,
                "percent": percent,
                "x": [estimate.step for estimate in estimates],
                "share": _rounded(x),
                "y": _rounded(np.array([estimate.value for estimate in estimates])),
                "low": _rounded(low),
                "high": _rounded(high),
            }
        )
    return Chart(
        title=title,
        unit=unit,
        x_label="training step",
        x_axis=x_axis,
        y_axis=y_axis,
        drawing=Markup("".join(parts)),
        legend=tuple(LegendEntry(label, i % COLOURS) for i, label in enumerate(groups))
        if len(groups) > 1
        else (),
        hover=json.dumps(hover, separators=(",", ":")),
        summary=f"{title} at {max(map(len, groups.values()))} points of the training; the table gives them.",
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
) -> Chart:
    """Draw short sequences over their index, dots on the values; `shaded_from` marks the padded rest.

    Args:
        lines: label and (N,) values of each line, all of one length.
        faint_after: lines beyond this many are drawn faint in one colour and have no legend entry.
        connected: draw lines; only dots where neighbours on the x axis have nothing to do with each other.
    """
    length = len(lines[0][1])
    x_axis = linear_axis(0, max(length - 1, 1), ticks=min(4, max(1, length - 1)))
    x_axis = Axis(x_axis.low, x_axis.high, tuple(t for t in x_axis.ticks if "." not in t.label))
    parts = []
    if shaded_from is not None:
        left = int(_units(float(x_axis.share(np.array([shaded_from]))[0])))
        parts.append(f'<rect class="shade" x="{left}" y="0" width="{SIZE - left}" height="{SIZE}"/>')
    if y_axis.low < 0 < y_axis.high:
        parts.append(f'<path class="zero" d="M0 {_units(1 - float(y_axis.share(np.zeros(1))[0]))}H{SIZE}"/>')
    shares = x_axis.share(np.arange(length, dtype=np.float64))
    for position, (_, values) in reversed(list(enumerate(lines))):  # the first line lies on top
        y = y_axis.share(values.astype(np.float64))
        colour = f"c{position}" if position < faint_after else "rest"
        size = "small" if connected or position == 0 else "halo"
        if connected:
            parts.append(f'<path class="line {colour}" d="{_line(shares, y)}"/>')
        if (length <= 24 or not connected) and position < faint_after:
            dots = "".join(
                f"M{_units(a)} {_units(1 - b)}h0" for a, b in zip(shares, y, strict=True) if not math.isnan(b)
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
        summary=f"{title}: {len(lines)} lines of {length} values",
    )


def _value_axis(curves: Sequence[Curve], log: bool, percent: bool) -> Axis:
    values = np.concatenate([np.concatenate([curve.low, curve.high]) for curve in curves])
    values = values[np.isfinite(values)]
    if log:
        values = values[values > 0]
    if not len(values):
        return linear_axis(0.0, 1.0, percent=percent)
    if log:
        return log_axis(float(values.min()), float(values.max()))
    return linear_axis(min(0.0, float(values.min())), max(float(values.max()) * 1.04, 0.0), percent=percent)


def _round_step(step: float) -> float:
    """Round up to 1, 2, 2.5 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= step * 0.999)


def _units(share: float) -> str:
    return str(round(share * SIZE))


def _line(x: np.ndarray, y: np.ndarray) -> str:
    """Return path data through (x, y) in shares, interrupted where y is NaN; a lone point becomes a dot."""
    parts: list[str] = []
    run: list[str] = []
    for a, b in zip(x, y, strict=True):
        if math.isnan(b):
            parts.extend(_stroke(run))
            run = []
        else:
            run.append(f"{_units(a)} {_units(1 - b)}")
    parts.extend(_stroke(run))
    return "".join(parts)


def _stroke(points: list[str]) -> Iterable[str]:
    if points:
        yield "M" + ("L".join(points) if len(points) > 1 else f"{points[0]}h0")


def _band(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    """Return path data of the area between low and high, one closed piece for each stretch without NaN."""
    parts = []
    known = ~np.isnan(low)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]]).astype(np.int8)))
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        there = [f"{_units(a)} {_units(1 - b)}" for a, b in zip(x[start:stop], high[start:stop], strict=True)]
        back = [f"{_units(a)} {_units(1 - b)}" for a, b in zip(x[start:stop], low[start:stop], strict=True)]
        parts.append("M" + "L".join(there + back[::-1]) + "Z")
    return "".join(parts)


def _rounded(values: np.ndarray) -> list[float | None]:
    """Four significant digits for the read-out; JSON has no NaN."""
    return [float(f"{value:.4g}") if math.isfinite(value) else None for value in values.tolist()]


def _last(curve: Curve, percent: bool) -> str:
    value = curve.last if not math.isfinite(curve.last) else float(curve.mean[-1])
    return f"{number(100 * value, 3)} %" if percent and math.isfinite(value) else number(value, 3)


def _summary(label: str, curve: Curve) -> str:
    finite = curve.mean[np.isfinite(curve.mean)]
    if not len(finite):
        return f"{label} has no finite value"
    last = number(float(curve.steps[-1]))
    return f"{label} goes from {number(finite[0])} to {number(finite[-1])} at step {last}"
