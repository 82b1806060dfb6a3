"""The charts of a report alone: thinned series over the training, and measured values with intervals."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from trainer.pages.parts.charts import (
    COLOURS,
    Axis,
    Chart,
    LegendEntry,
    band_path,
    line_path,
    linear_axis,
    log_axis,
    rounded,
    units,
)
from trainer.pages.report.metrics import Curve
from trainer.utils.text import Interval, number


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
                parts.append(f'<path class="raw c{colour}" d="{line_path(x, low)}"/>')
        else:
            parts.append(f'<path class="band c{colour}" d="{band_path(x, low, high)}"/>')
    for position, curve in enumerate(curves):
        line = line_path(x_axis.share(curve.steps), y_axis.share(curve.mean))
        parts.append(f'<path class="line c{position % COLOURS}" d="{line}"/>')
    for label, curve in zip(labels, curves, strict=True):
        if curve.broken:
            marks = " ".join(f"M{units(share)} 0v60" for share in x_axis.share(curve.broken_steps))
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
            "share": rounded(x_axis.share(curve.steps)),
            "y": rounded(curve.mean),
            "low": rounded(curve.low) if curve.window > 1 else None,
            "high": rounded(curve.high) if curve.window > 1 else None,
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
            f"M{units(a)} {units(1 - b)}V{units(1 - c)}"
            for a, b, c in zip(x, y_axis.share(low), y_axis.share(high), strict=True)
            if not math.isnan(b + c)
        )
        dots = "".join(f"M{units(a)} {units(1 - b)}h0" for a, b in zip(x, y, strict=True))
        parts.append(f'<path class="interval c{colour}" d="{bars}"/>')
        parts.append(
            f'<path class="thin c{colour}" d="{line_path(x, y)}"/><path class="dot c{colour}" d="{dots}"/>'
        )
        hover.append(
            {
                "label": label,
                "colour": colour,
                "percent": percent,
                "x": [estimate.step for estimate in estimates],
                "share": rounded(x),
                "y": rounded(np.array([estimate.value for estimate in estimates])),
                "low": rounded(low),
                "high": rounded(high),
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


def _last(curve: Curve, percent: bool) -> str:
    value = curve.last if not math.isfinite(curve.last) else float(curve.mean[-1])
    return f"{number(100 * value, 3)} %" if percent and math.isfinite(value) else number(value, 3)


def _summary(label: str, curve: Curve) -> str:
    finite = curve.mean[np.isfinite(curve.mean)]
    if not len(finite):
        return f"{label} has no finite value"
    last = number(float(curve.steps[-1]))
    return f"{label} goes from {number(finite[0])} to {number(finite[-1])} at step {last}"
