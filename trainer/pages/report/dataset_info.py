"""What a run folder says of its dataset, as plain dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainer.pages.report.fields import (
    as_integer,
    as_mapping,
    as_number,
    as_sequence,
    as_text,
    as_text_mapping,
    as_texts,
)


@dataclass(frozen=True)
class Feature:
    """One column of the dataset; `window` holds the frame offsets that a sample takes from it."""

    name: str
    dtype: str | None
    shape: tuple[int, ...] | None
    names: tuple[str, ...]
    window: tuple[float, ...]


@dataclass(frozen=True)
class DatasetInfo:
    """The facts of `dataset.json`; episode lengths in frames; `made` says in pairs how it came about."""

    root: str | None
    repo_id: str | None
    robot_type: str | None
    fps: float | None
    episodes: int | None
    frames: int | None
    shortest: float | None
    mean_length: float | None
    longest: float | None
    tasks: tuple[str, ...]
    features: tuple[Feature, ...]
    made: tuple[tuple[str, str], ...] = ()


def dataset_info(raw: dict[str, Any]) -> DatasetInfo:
    """Return what `dataset.json` says."""
    windows = as_mapping(raw.get("windows"))
    lengths = as_mapping(raw.get("episode_lengths"))
    features = {str(key): as_mapping(value) for key, value in as_mapping(raw.get("features")).items()}
    return DatasetInfo(
        root=as_text(raw.get("root")),
        repo_id=as_text(raw.get("repo_id")),
        robot_type=as_text(raw.get("robot_type")),
        fps=as_number(raw.get("fps")),
        episodes=as_integer(raw.get("episodes")),
        frames=as_integer(raw.get("frames")),
        shortest=as_number(lengths.get("min")),
        mean_length=as_number(lengths.get("mean")),
        longest=as_number(lengths.get("max")),
        tasks=as_texts(raw.get("tasks")),
        features=tuple(_feature(name, entry, windows.get(name)) for name, entry in features.items()),
        made=_made(as_mapping(raw.get("made"))),
    )


_MADE = {
    "recorded_with": "Recorded in",
    "seed": "Seed of the starts",
    "attempts": "Attempts of the expert",
    "steps_after_success": "Steps after success",
    "converted_from": "Converted from",
    "source": "Source",
}


def _made(raw: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return how a dataset came about, in a reader's words."""
    told = [
        (word, str(raw[key])) for key, word in _MADE.items() if isinstance(raw.get(key), str | int | float)
    ]
    splits = {name: len(as_sequence(ids)) for name, ids in as_mapping(raw.get("splits")).items()}
    if splits:
        told.append(("Splits", ", ".join(f"{name}: {count} episodes" for name, count in splits.items())))
    versions = as_text_mapping(raw.get("versions"))
    if versions:
        told.append(("With", ", ".join(f"{name} {version}" for name, version in versions.items())))
    return tuple(told)


def _feature(name: str, raw: dict[str, Any], window: Any) -> Feature:
    shape = raw.get("shape")
    names = raw.get("names")
    if isinstance(names, dict):  # {"axes": [...]}, as some writers of the format do it
        names = next((value for value in names.values() if isinstance(value, list)), None)
    window_numbers = [as_number(value) for value in as_sequence(window)]
    return Feature(
        name=name,
        dtype=as_text(raw.get("dtype")),
        shape=tuple(size for size in map(as_integer, as_sequence(shape)) if size is not None)
        if shape is not None
        else None,
        names=as_texts(names),
        window=tuple(value for value in window_numbers if value is not None),
    )
