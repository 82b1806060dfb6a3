"""An inspection as one self-contained HTML page: findings, ranges, plots of episodes, film strips."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.inspection.findings import Finding
from trainer.data.inspection.inspection import Inspection
from trainer.data.inspection.table import verdict
from trainer.data.inspection.values import FeatureFacts
from trainer.pages.dataset.strips import Strip, film_strip
from trainer.pages.parts.charts import (
    COLOURS,
    Chart,
    LegendEntry,
    linear_axis,
    lines_chart,
    shared_axis,
)
from trainer.pages.parts.render import render_page
from trainer.utils.files import whole_file

_TEMPLATES = Path(__file__).parent / "page"
# Points over all lines of the page: about 1 MB of lines and read-outs.
_POINTS = 60_000
_MOST_POINTS = 400
_FEWEST_POINTS = 40
_MAX_DIMENSIONS = 48
_MAX_EPISODE_ROWS = 1000
_ONE_AXIS = 12.0
"""Dimensions share a chart while the axis is no more than so many times as long as the smallest range."""


@dataclass(frozen=True)
class PlotRow:
    """A few dimensions of a feature: a chart for each shown episode, and one legend for all."""

    legend: tuple[LegendEntry, ...]
    charts: tuple[Chart, ...]


@dataclass(frozen=True)
class Plot:
    """One feature in the shown episodes."""

    name: str
    note: str
    rows: tuple[PlotRow, ...]


@dataclass(frozen=True)
class ShownEpisode:
    """The film strips of an episode."""

    number: int
    length: int
    task: str
    strips: tuple[Strip, ...]


def write_page(inspection: Inspection, target: Path, *, show: int = 4) -> None:
    """Write the page, whole or not at all.

    Args:
        inspection: what was found.
        target: the HTML file.
        show: how many episodes have plots and film strips; those with faults come first.

    Raises:
        OSError: it cannot be written.
    """
    page = render_page(_TEMPLATES, "inspection.html", _content(inspection, show))
    with whole_file(target) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _content(inspection: Inspection, show: int) -> dict[str, Any]:
    shown = _shown(inspection, show)
    lengths = np.array([episode.length for episode in inspection.episodes], np.float64)
    of_episode: dict[int, list[Finding]] = {}
    for finding in inspection.findings:
        for number in finding.episodes:
            of_episode.setdefault(number, []).append(finding)
    return {
        "inspection": inspection,
        "title": inspection.root.resolve().name,
        "verdict": verdict(inspection),
        "lengths": lengths,
        "lengths_chart": _lengths_chart(lengths),
        "episode_rows": inspection.episodes[:_MAX_EPISODE_ROWS],
        "findings_of": of_episode,
        "plots": _plots(inspection, shown),
        "films": _films(inspection, shown),
    }


def _shown(inspection: Inspection, show: int) -> list[int]:
    """Return places in the episode table: of episodes with faults, then evenly spaced ones."""
    count = len(inspection.episodes)
    faulty = {number for finding in inspection.faults for number in finding.episodes[:1]}
    places = [i for i, episode in enumerate(inspection.episodes) if episode.number in faulty][:show]
    for place in np.linspace(0, max(count - 1, 0), min(show, count)).round().astype(int).tolist():
        if place not in places and len(places) < show:
            places.append(place)
    return sorted(places)


def _lengths_chart(lengths: np.ndarray) -> Chart | None:
    if not len(lengths):
        return None
    x, line = _thinned(lengths, _MOST_POINTS)
    return lines_chart(
        "Episode lengths",
        "frames",
        "episode",
        [("frames", line)],
        linear_axis(0.0, float(lengths.max()) * 1.05, ticks=4),
        x=x,
        x_word="episode",
    )


def _plots(inspection: Inspection, shown: Sequence[int]) -> tuple[Plot, ...]:
    reader, rows = inspection.reader, inspection.rows
    if reader is None or rows is None:
        return ()
    groups = {facts.name: _groups(facts) for facts in inspection.features}
    lines = sum(len(group) for of in groups.values() for group in of) * max(len(shown), 1)
    points = int(np.clip(_POINTS // max(lines, 1), _FEWEST_POINTS, _MOST_POINTS))
    numbers = [inspection.episodes[place].number for place in shown]
    selected = [rows.rows_of(number) for number in numbers]
    plots = []
    for facts in inspection.features:
        column = rows.column(reader.features[facts.name])
        values = [column[some].reshape(len(some), -1).astype(np.float64) for some in selected]
        drawn = tuple(_plot_row(facts, group, numbers, values, points) for group in groups[facts.name])
        plots.append(Plot(facts.name, _note(facts, groups[facts.name]), drawn))
    return tuple(plots)


def _groups(facts: FeatureFacts) -> list[list[int]]:
    """Return the dimensions that are drawn, those together that can share an axis and its colours."""
    groups: list[list[int]] = []
    spans: list[tuple[float, float]] = []
    for i, d in enumerate(facts.dimensions[:_MAX_DIMENSIONS]):
        if d.constant or not np.isfinite(d.high - d.low):
            continue
        if groups and len(groups[-1]) < COLOURS:
            low, high = min(spans[-1][0], d.low), max(spans[-1][1], d.high)
            smallest = min(
                *(facts.dimensions[k].high - facts.dimensions[k].low for k in groups[-1]), d.high - d.low
            )
            if high - low <= _ONE_AXIS * smallest:
                groups[-1].append(i)
                spans[-1] = (low, high)
                continue
        groups.append([i])
        spans.append((d.low, d.high))
    return groups


def _note(facts: FeatureFacts, groups: Sequence[Sequence[int]]) -> str:
    parts = [facts.dtype] + ([f"{len(facts.dimensions)} dimensions"] if len(facts.dimensions) > 1 else [])
    still = sum(d.constant for d in facts.dimensions)
    if still:
        parts.append("constant" if still == len(facts.dimensions) else f"{still} constant ones are not drawn")
    if len(facts.dimensions) > _MAX_DIMENSIONS:
        parts.append(f"the first {_MAX_DIMENSIONS} are drawn")
    return ", ".join(parts)


def _plot_row(
    facts: FeatureFacts,
    group: Sequence[int],
    numbers: Sequence[int],
    values: Sequence[np.ndarray],
    points: int,
) -> PlotRow:
    axis = shared_axis([value[:, list(group)] for value in values])
    charts = []
    for number, value in zip(numbers, values, strict=True):
        if not len(value):
            continue
        x = _thinned(value[:, 0], points)[0]
        lines = [(facts.dimensions[i].name or facts.name, _thinned(value[:, i], points)[1]) for i in group]
        charts.append(lines_chart(f"episode {number}", "", "frame", lines, axis, x=x, x_word="frame"))
    legend = charts[0].legend if charts and len(group) > 1 else ()
    if len(group) == 1 and facts.dimensions[group[0]].name:
        charts = [replace(chart, unit=facts.dimensions[group[0]].name) for chart in charts]
    return PlotRow(legend, tuple(replace(chart, legend=()) for chart in charts))


def _thinned(values: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Return at most `points` positions and values; of each stretch its extremes: no spike is lost."""
    if len(values) <= points:
        return np.arange(len(values), dtype=np.float64), values
    edges = np.linspace(0, len(values), points // 2 + 1).round().astype(int)
    kept = []
    for begin, end in itertools.pairwise(edges.tolist()):
        part = values[begin:end]
        if np.isnan(part).all():
            kept += [np.nan, np.nan]
            continue
        low, high = int(np.nanargmin(part)), int(np.nanargmax(part))
        kept += [part[min(low, high)], part[max(low, high)]]
    # Both extremes of a stretch stand at its ends: all lines of a chart share their positions.
    return np.stack([edges[:-1], edges[1:] - 1], axis=1).reshape(-1).astype(np.float64), np.array(kept)


def _films(inspection: Inspection, shown: Sequence[int]) -> tuple[ShownEpisode, ...]:
    reader = inspection.reader
    if reader is None or not inspection.cameras:
        return ()
    films = []
    for place in shown:
        episode = inspection.episodes[place]
        strips = [film_strip(reader, camera.name, place) for camera in inspection.cameras]
        films.append(ShownEpisode(episode.number, episode.length, ", ".join(episode.tasks), tuple(strips)))
    return tuple(films)
