"""One page about several runs: what each came to, with intervals, their curves, and how they differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from markupsafe import Markup

from trainer.pages.parts.charts import Chart, linear_axis
from trainer.pages.parts.render import render_page
from trainer.pages.report.charts import curve_chart
from trainer.pages.report.curves import estimate_curves, title_of
from trainer.pages.report.metrics import Curve, Series, thin
from trainer.pages.report.page import PAGE, memory_taken, parameter_totals, status, write_page
from trainer.pages.report.run_folder import Evaluation, ReportError, Run, read_run
from trainer.utils.text import Interval

_POINTS = 9_000
_LEFT_OUT = {"epoch"}


def build_comparison(runs: Sequence[Path], out: Path | None = None) -> Path:
    """Write one self-contained HTML page about several runs and return its path.

    Args:
        runs: run folders (`save_dir`), the first of which the others are held against.
        out: the page to write; by default `comparison_RUN_RUN.html` in the current folder.

    Raises:
        ReportError: one of them is no run folder or is named twice, or the page cannot be written.
    """
    resolved = [run.resolve() for run in runs]
    twice = next((run for at, run in enumerate(runs) if resolved[at] in resolved[:at]), None)
    if twice is not None:
        raise ReportError(f"{twice} is named twice.")
    names = labels(runs)
    if out is None:
        shown = names if len(names) < 5 else [names[0], f"and-{len(names) - 1}-others"]
        out = Path("_".join(["comparison", *(name.replace("/", "-")[-60:] for name in shown)]) + ".html")
    read = dict(zip(names, map(read_run, runs), strict=True))
    return write_page(render_page(PAGE, "comparison.html", _content(read)), out)


def labels(runs: Sequence[Path]) -> list[str]:
    """Return for every run folder the last parts of its path, as many as tell it from the others."""
    parts = [run.resolve().parts for run in runs]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-count:]) for one in parts]
        if len(set(names)) == len(names):
            break
    return names


@dataclass(frozen=True)
class Difference:
    """What a run comes to beyond the first one, over the starts that both were tried on."""

    value: float
    interval: Interval | None
    starts: int


@dataclass(frozen=True)
class Result:
    """A run's newest evaluation in an environment; `success` and `score` are held against the first run's."""

    run: str
    evaluation: Evaluation
    success: Difference | None
    score: Difference | None


def _content(runs: Mapping[str, Run]) -> dict[str, Any]:
    furthest = [r.metrics.last_step for r in runs.values() if r.metrics and r.metrics.last_step is not None]
    return {
        "runs": runs,
        "statuses": {label: status(run) for label, run in runs.items()},
        "totals": {n: parameter_totals(r.info.components if r.info else ()) for n, r in runs.items()},
        "memory": {label: memory_taken(run) for label, run in runs.items()},
        "results": results(runs),
        "evaluation_charts": [
            chart
            for env in environments(runs)
            for chart in estimate_curves(
                {n: [e for e in r.evaluations if e.env == env] for n, r in runs.items()},
                max(furthest, default=None),
                f", {env}",
            )
        ],
        "curves": common_curves(runs),
        "differences": differing_settings({n: run.config for n, run in runs.items()}),
        "range_mark": range_mark,
    }


def environments(runs: Mapping[str, Run]) -> list[str]:
    """Return the names of all environments in which a run was tried out, the first run's first."""
    return list(dict.fromkeys(verdict.env for run in runs.values() for verdict in run.verdicts))


def results(runs: Mapping[str, Run]) -> dict[str, list[Result]]:
    """Return for every environment the newest evaluation of each run."""
    found: dict[str, list[Result]] = {}
    for label, run in runs.items():
        for verdict in run.verdicts:
            others = found.setdefault(verdict.env, [])
            first = others[0].evaluation if others else None
            success = score = None
            if first is not None:
                success = paired_success(_by_start(first, "success"), _by_start(verdict, "success"))
                score = paired_mean(_by_start(first, "score"), _by_start(verdict, "score"))
            others.append(Result(label, verdict, success, score))
    return found


def _by_start(evaluation: Evaluation, measure: str) -> dict[str, float]:
    """Return start seed → what was measured there; starts whose seed is not known are left out."""
    values = ((e.seed, getattr(e, measure)) for e in evaluation.episodes)
    return {seed: float(value) for seed, value in values if seed is not None and value is not None}


def paired_success(first: Mapping[str, float], other: Mapping[str, float]) -> Difference | None:
    """Return the difference of two success rates over common starts, with its 95 % interval.

    Half a start is added to each of the four outcomes, so that a few starts without a difference promise
    nothing (Agresti and Min, "Simple improved confidence intervals for comparing matched proportions", 2005).
    """
    common = first.keys() & other.keys()
    if not common:
        return None
    gained = sum(other[start] > first[start] for start in common)
    lost = sum(other[start] < first[start] for start in common)
    n = len(common) + 2
    middle = (gained - lost) / n
    half = 1.96 * math.sqrt(gained + lost + 1 - (gained - lost) ** 2 / n) / n
    value = (gained - lost) / len(common)
    return Difference(value, (max(-1.0, middle - half), min(1.0, middle + half)), len(common))


def paired_mean(first: Mapping[str, float], other: Mapping[str, float]) -> Difference | None:
    """Return the mean difference of two scores over common starts, with its normal 95 % interval."""
    common = sorted(first.keys() & other.keys())
    if not common:
        return None
    differences = np.array([other[start] - first[start] for start in common])
    mean, interval = float(differences.mean()), None
    if len(common) > 1 and differences.std() > 0:
        half = 1.96 * float(differences.std(ddof=1)) / math.sqrt(len(common))
        interval = (mean - half, mean + half)
    return Difference(mean, interval, len(common))


def common_curves(runs: Mapping[str, Run]) -> list[Chart]:
    """Draw every metric that at least two runs have, a line for each; the total loss first."""
    series: dict[str, dict[str, Series]] = {}
    for label, run in runs.items():
        for source in (run.metrics, run.validations):
            for name, one in (source.series if source else {}).items():
                if name not in _LEFT_OUT:
                    series.setdefault(name, {})[label] = one
    shared = {name: lines for name, lines in series.items() if len(lines) > 1}
    names = sorted(shared, key=lambda name: (name != "total", not name.startswith("validation/"), name))
    points = max(60, min(300, _POINTS // max(1, sum(map(len, shared.values())))))
    charts = []
    for name in names:
        lines = shared[name]
        smooth = not name.endswith("lr") and not name.startswith("validation/")
        last = max(float(one.steps[-1]) for one in lines.values())
        axis = linear_axis(min(float(one.steps[0]) for one in lines.values()), last, ticks=4)
        curves = [_line_alone(thin(one, points, smooth=smooth)) for one in lines.values()]
        percent, linear = name == "data_wait", name in ("data_wait", "samples_per_s") or name.endswith("lr")
        charts.append(
            curve_chart(*title_of(name), curves, axis, labels=list(lines), log=not linear, percent=percent)
        )
    return charts


def _line_alone(curve: Curve) -> Curve:
    """Return a curve without the range of its records: those of several runs would hide one another."""
    return replace(curve, low=curve.mean, high=curve.mean, window=1)


def differing_settings(configs: Mapping[str, str | None]) -> list[tuple[str, list[str]]]:
    """Return the settings that are not the same in all runs: dotted path, and its value in each, or –."""
    flat = [_flat(config) for config in configs.values()]
    paths = dict.fromkeys(path for one in flat for path in one)
    rows = [(path, [one.get(path, "–") for one in flat]) for path in paths]
    return [(path, values) for path, values in rows if len(set(values)) > 1]


def _flat(text: str | None) -> dict[str, str]:
    """Return dotted path → value of every setting in a YAML text; nothing of one that cannot be read."""
    try:
        root = yaml.safe_load(text or "")
    except yaml.YAMLError:
        return {}
    found: dict[str, str] = {}

    def visit(value: Any, path: str) -> None:
        if isinstance(value, dict) and value:
            for key, child in value.items():
                visit(child, f"{path}.{key}" if path else str(key))
        elif path:
            found[path] = (
                yaml.safe_dump(value, default_flow_style=True, width=10_000).split("\n...")[0].strip()
            )

    visit(root, "")
    return found


def range_mark(value: float | None, interval: Interval | None, low: float, high: float) -> Markup:
    """Draw a value with its interval on a line from `low` to `high`."""
    if value is None or high <= low:
        return Markup("")

    def at(number: float) -> int:
        return round(1000 * min(1.0, max(0.0, (number - low) / (high - low))))

    parts = ['<path class="grid" d="M0 500H1000"/>']
    if low < 0 < high:
        parts.append(f'<path class="zero" d="M{at(0)} 0V1000"/>')
    if interval is not None:
        parts.append(f'<path class="interval c0" d="M{at(interval[0])} 500H{at(interval[1])}"/>')
    parts.append(f'<path class="dot c0" d="M{at(value)} 500h0"/>')
    drawing = "".join(parts)
    box = 'viewBox="0 0 1000 1000" preserveAspectRatio="none" aria-hidden="true"'
    return Markup(f'<svg class="range" {box}>{drawing}</svg>')
