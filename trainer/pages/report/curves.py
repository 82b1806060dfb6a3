"""Which charts the page draws from the metrics and the evaluations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from trainer.pages.parts.charts import Axis, Chart, Tick, linear_axis
from trainer.pages.report.charts import Estimate, curve_chart, estimate_chart
from trainer.pages.report.metrics import Metrics, thin
from trainer.pages.report.run_folder import Evaluation
from trainer.utils.text import Interval

TOTAL = "total"
_HELD_OUT = "validation/"
_TITLES = {
    TOTAL: ("Total loss", "loss"),
    f"{_HELD_OUT}{TOTAL}": ("Total loss, validation", "loss"),
    "samples_per_s": ("Throughput", "samples / s"),
    "data_wait": ("Waiting for data", "share of time"),
}
_THROUGHPUT = ("samples_per_s", "data_wait")
# Not curves: positions in time that every record has.
_POSITIONS = {"epoch"}
# Points over all curves of the page: about 1 MB of lines and read-outs.
_POINTS = 9_000
_PER_CHART = 6


@dataclass(frozen=True)
class CurveGroup:
    """Charts under one heading."""

    title: str
    charts: tuple[Chart, ...]


@dataclass(frozen=True)
class Clock:
    """How long training had gone on at some steps, without saving and measuring; both `(N,)`, ascending."""

    steps: np.ndarray
    seconds: np.ndarray

    def beside(self, axis: Axis) -> Axis:
        """Return an axis of steps with the time under its labels."""
        at = [axis.low + tick.share * (axis.high - axis.low) for tick in axis.ticks]
        seconds = np.interp(at, self.steps, self.seconds)
        ticks = zip(axis.ticks, at, seconds, strict=True)
        long = self.seconds[-1] >= 3600
        known = (Tick(t.share, _clock_text(s, long)) for t, step, s in ticks if step <= self.steps[-1])
        name = f"training time below, {'h:min' if long else 'min:s'}"
        return replace(axis, below=tuple(known), below_name=name)


def title_of(name: str) -> tuple[str, str]:
    """Return the title of the chart of one metric, and the unit of its axis."""
    return _TITLES.get(name, (name, "value"))


def _clock_text(seconds: float, long: bool) -> str:
    """Write a time as `h:mm`, or as `m:ss`."""
    large, small = divmod(round(seconds / 60 if long else seconds), 60)
    return f"{large:,}:{small:02d}"


def training_clock(metrics: Metrics | None, samples_per_step: float | None) -> Clock | None:
    """Return the clock of a run, from its rates; None where it has none."""
    rates = metrics.series.get("samples_per_s") if metrics else None
    if rates is None or not samples_per_step:
        return None
    sound = np.isfinite(rates.values) & (rates.values > 0)
    if not sound.any():
        return None
    steps = rates.steps[sound]
    seconds = np.cumsum(np.diff(steps, prepend=-1.0) * samples_per_step / rates.values[sound])
    return Clock(np.concatenate([[0.0], steps + 1]), np.concatenate([[0.0], seconds]))


def training_curves(
    metrics: Metrics, validations: Metrics | None = None, clock: Clock | None = None
) -> tuple[CurveGroup, ...]:
    """Draw every metric: losses, learning rates, gradient norms, throughput and all else that it finds.

    Args:
        metrics: of every step.
        validations: of the episodes that were kept from training; a loss stands in one chart with its like.
        clock: puts the time under the steps.
    """
    held_out = {k: v for k, v in (validations.series if validations else {}).items() if k not in _POSITIONS}
    names = [name for name in metrics.series if name not in _POSITIONS]
    if not names or metrics.last_step is None:
        return ()
    first = min(float(metrics.series[name].steps[0]) for name in names)
    x_axis = linear_axis(min(first, 1.0) if first < 10 else first, metrics.last_step, ticks=4)
    x_axis = x_axis if clock is None else clock.beside(x_axis)
    points = max(60, min(500, _POINTS // len(names)))

    def chart(title: str, unit: str, chosen: Sequence[str], suffix: str = "", **options: bool) -> Chart:
        curves = [thin(metrics.series[name], points, smooth=suffix != "lr") for name in chosen]
        labels = [_label(name, suffix) for name in chosen]
        same = held_out.pop(_HELD_OUT + chosen[0], None) if len(chosen) == 1 else None
        if same is not None:
            curves.append(thin(same, points, smooth=False))
            labels = ["training", "validation"]
        return curve_chart(title, unit, curves, x_axis, labels=labels, **options)

    rates = [name for name in names if _has_suffix(name, "lr")]
    norms = [name for name in names if _has_suffix(name, "grad_norm")]
    known = {TOTAL, *rates, *norms, *_THROUGHPUT}
    further = [name for name in names if name not in known]
    main = [chart(*title_of(name), [name], log=True) for name in (TOTAL, *further) if name in names]
    main += [
        curve_chart(*title_of(name), [thin(series, points, smooth=False)], x_axis, labels=[name], log=True)
        for name, series in held_out.items()
    ]
    optimization = [
        chart(title + part, unit, chosen, suffix, log=suffix == "grad_norm")
        for title, unit, members, suffix in (
            ("Learning rate", "", rates, "lr"),
            ("Gradient norm", "L2 norm", norms, "grad_norm"),
        )
        for chosen, part in _parts(members)
    ]
    speed = [
        chart(*title_of(name), [name], percent=name == "data_wait") for name in _THROUGHPUT if name in names
    ]
    groups = (
        CurveGroup("Losses and further metrics", tuple(main)),
        CurveGroup("Optimization", tuple(optimization)),
        CurveGroup("Speed", tuple(speed)),
    )
    return tuple(group for group in groups if group.charts)


def estimate_curves(
    groups: Mapping[str, Sequence[Evaluation]],
    last_step: float | None,
    of: str = "",
    clock: Clock | None = None,
) -> tuple[Chart, ...]:
    """Draw success rate and mean score over the training, one colour for each group.

    Args:
        groups: label → evaluations; those whose step is not known are left out.
        last_step: where training stands.
        of: what the titles say behind the measure.
        clock: puts the time under the steps.
    """
    placed = {
        label: sorted((e for e in group if e.step is not None), key=lambda e: e.step or 0.0)
        for label, group in groups.items()
    }
    steps = [e.step or 0.0 for group in placed.values() for e in group]
    if not steps:
        return ()
    # A little room on the right: the last evaluation stands at the last step.
    x_axis = linear_axis(0.0, max(*steps, last_step or 0.0, 1.0), ticks=4)
    x_axis = _with_room(x_axis if clock is None else clock.beside(x_axis))
    charts = []
    success = _estimates(placed, lambda e: (e.success_rate, e.success_interval))
    if success:
        axis = linear_axis(0.0, 1.0, ticks=4, percent=True)
        title = f"Success rate{of}"
        charts.append(estimate_chart(title, "share of episodes", success, x_axis, axis, percent=True))
    scores = _estimates(placed, lambda e: (e.mean_score, e.score_interval))
    if scores:
        bounds = [
            bound
            for group in scores.values()
            for estimate in group
            for bound in (estimate.value, *(estimate.interval or ()))
            if math.isfinite(bound)
        ]
        axis = linear_axis(min(0.0, *bounds), max(1.0, *bounds), ticks=4) if bounds else linear_axis(0.0, 1.0)
        charts.append(estimate_chart(f"Mean score{of}", "score", scores, x_axis, axis, percent=False))
    return tuple(charts)


def _estimates(
    groups: Mapping[str, Sequence[Evaluation]],
    measured: Callable[[Evaluation], tuple[float | None, Interval | None]],
) -> dict[str, list[Estimate]]:
    """Return what was measured in each group, without groups in which nothing was."""
    found: dict[str, list[Estimate]] = {}
    for label, group in groups.items():
        for evaluation in group:
            value, interval = measured(evaluation)
            if value is not None:
                found.setdefault(label, []).append(Estimate(evaluation.step or 0.0, value, interval))
    return found


def by_env(evaluations: Sequence[Evaluation]) -> dict[str, list[Evaluation]]:
    """Return the evaluations of each environment, in their order."""
    groups: dict[str, list[Evaluation]] = {}
    for evaluation in evaluations:
        groups.setdefault(evaluation.env, []).append(evaluation)
    return groups


def _with_room(axis: Axis) -> Axis:
    """Lengthen an axis a little without new ticks."""
    high = axis.high + 0.04 * (axis.high - axis.low)
    ticks, below = (
        tuple(replace(tick, share=tick.share / 1.04) for tick in row) for row in (axis.ticks, axis.below)
    )
    return replace(axis, high=high, ticks=ticks, below=below)


def _has_suffix(name: str, suffix: str) -> bool:
    """Whether a metric is `<component> <suffix>` or the suffix alone."""
    return name == suffix or name.endswith(f" {suffix}")


def _label(name: str, suffix: str) -> str:
    return name.removesuffix(suffix).strip() or name if suffix else name


def _parts(names: Sequence[str]) -> list[tuple[Sequence[str], str]]:
    """Split names over charts of a readable number of lines, with a title suffix where there are several."""
    chunks = [names[start : start + _PER_CHART] for start in range(0, len(names), _PER_CHART)]
    if len(chunks) < 2:
        return [(chunk, "") for chunk in chunks]
    return [(chunk, f" ({position} of {len(chunks)})") for position, chunk in enumerate(chunks, start=1)]
