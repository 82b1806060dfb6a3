"""An inspection as text for the terminal, and as plain values for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from trainer.data.inspection.findings import Finding, counted
from trainer.data.inspection.inspection import Inspection
from trainer.data.inspection.values import FeatureFacts
from trainer.utils.tables import table
from trainer.utils.text import duration, number, shape

_ROWS_OF_A_FEATURE = 64
_TASKS = 10
_EPISODE_NUMBERS = 12


def as_text(inspection: Inspection) -> str:
    """Return the whole inspection: what the dataset is, its ranges, and what was found."""
    parts = [_head(inspection), _features(inspection), _cameras(inspection), _findings(inspection)]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def as_plain(inspection: Inspection) -> dict[str, Any]:
    """Return the whole inspection as JSON can hold it; numbers that are none are null."""
    reader = inspection.reader
    return {
        "root": str(inspection.root),
        "version": reader and reader.info.version,
        "robot_type": reader and reader.info.robot_type,
        "fps": reader and reader.fps,
        "frames": sum(episode.length for episode in inspection.episodes),
        "tasks": list(reader.tasks) if reader else [],
        "splits": reader.info.splits if reader else {},
        "episodes": [asdict(episode) for episode in inspection.episodes],
        "features": [
            {
                **asdict(feature),
                "dimensions": [
                    {key: None if value != value else value for key, value in asdict(one).items()}
                    for one in feature.dimensions
                ],
            }
            for feature in inspection.features
        ],
        "cameras": [asdict(camera) for camera in inspection.cameras],
        "faults": [asdict(finding) for finding in inspection.faults],
        "remarks": [asdict(finding) for finding in inspection.remarks],
    }


def _head(inspection: Inspection) -> list[str]:
    reader = inspection.reader
    if reader is None:
        return [str(inspection.root)]
    lengths = np.array([episode.length for episode in inspection.episodes])
    robot = f", robot {reader.info.robot_type}" if reader.info.robot_type else ""
    lines = [
        str(inspection.root),
        f"LeRobot {reader.info.version}{robot}, {reader.fps:g} frames/s",
        f"{counted(len(lengths), 'episode')}, {counted(int(lengths.sum()), 'frame')} "
        f"({duration(float(lengths.sum()) / reader.fps)}), {lengths.min()} to {lengths.max()} frames each, "
        f"mean {number(float(lengths.mean()))}, median {number(float(np.median(lengths)))}",
    ]
    lines += [f"split {name}: {_split(told)}" for name, told in reader.info.splits.items()]
    for index, text in enumerate(reader.tasks[:_TASKS]):
        having = sum(text in episode.tasks for episode in inspection.episodes)
        lines.append(f"task {index}: {text} ({counted(having, 'episode')})")
    if len(reader.tasks) > _TASKS:
        lines.append(f"… and {len(reader.tasks) - _TASKS} more tasks")
    return lines


def _split(told: Any) -> str:
    return counted(len(told), "episode") if isinstance(told, list) else f"episodes {told}"


def _features(inspection: Inspection) -> list[str]:
    rows: list[tuple[str, ...]] = [("feature", "type", "dimension", "min", "max", "mean", "std", "")]
    for feature in inspection.features:
        rows += _feature_rows(feature)
    return table(rows, left=3) if len(rows) > 1 else []


def _feature_rows(feature: FeatureFacts) -> list[tuple[str, ...]]:
    kind = f"{feature.dtype} {shape(feature.shape)}"
    rows: list[tuple[str, ...]] = []
    for i, d in enumerate(feature.dimensions[:_ROWS_OF_A_FEATURE]):
        notes = [
            text
            for text, there in (
                ("constant", d.constant),
                (f"{d.broken:,} not finite", d.broken),
                (counted(d.jumps, "jump"), d.jumps),
            )
            if there
        ]
        values = [number(value) for value in (d.low, d.high, d.mean, d.std)]
        first = (feature.name, kind) if i == 0 else ("", "")
        rows.append((*first, d.name, *values, ", ".join(notes)))
    if len(feature.dimensions) > _ROWS_OF_A_FEATURE:
        rest = len(feature.dimensions) - _ROWS_OF_A_FEATURE
        rows.append(("", "", f"… and {rest} more", "", "", "", "", ""))
    return rows


def _cameras(inspection: Inspection) -> list[str]:
    if not inspection.cameras:
        return []
    rows = [("camera", "type", "files", "stored as")]
    rows += [(c.name, f"{c.dtype} {shape(c.shape)}", f"{c.files}", c.stored) for c in inspection.cameras]
    return table(rows, left=4)


def _findings(inspection: Inspection) -> list[str]:
    lines = [_line("FAULT", finding) for finding in inspection.faults]
    lines += [_line("remark", finding) for finding in inspection.remarks]
    return [*lines, verdict(inspection)]


def verdict(inspection: Inspection) -> str:
    """Return the outcome in one sentence."""
    faults = counted(len(inspection.faults), "fault") if inspection.faults else "No faults"
    remarks = counted(len(inspection.remarks), "remark") if inspection.remarks else "no remarks"
    return f"{faults}, {remarks}."


def _line(word: str, finding: Finding) -> str:
    where = ""
    if len(finding.episodes) > 1:
        shown = ", ".join(map(str, finding.episodes[:_EPISODE_NUMBERS]))
        where = f" [episodes {shown}{', …' if len(finding.episodes) > _EPISODE_NUMBERS else ''}]"
    return f"{word:6}  {finding.kind}: {finding.message}{where}"
