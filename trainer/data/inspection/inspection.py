"""`inspect_dataset`: everything that can be said about a dataset, without stopping at the first fault."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from trainer.data.columns import named_alike, names_beside
from trainer.data.conversion.convert import detect
from trainer.data.errors import DatasetError
from trainer.data.inspection.cameras import CameraFacts, check_camera
from trainer.data.inspection.findings import Finding, Findings
from trainer.data.inspection.rows import Rows, check_lengths, check_tasks, check_timestamps, read_rows
from trainer.data.inspection.values import FeatureFacts, check_values
from trainer.data.lerobot import BOOKKEEPING, LeRobotReader
from trainer.data.lerobot.info import INFO_PATH, Feature
from trainer.data.statistics import Stats
from trainer.data.stored_statistics import episode_difference, of_an_episode
from trainer.utils.progress import progress_bar


@dataclass(frozen=True)
class EpisodeFacts:
    """One episode: its number, frames, and task texts."""

    number: int
    length: int
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class Inspection:
    """What a dataset is, and what is wrong with it.

    Attributes:
        root: its folder.
        reader: the open dataset; None where its metadata cannot be read.
        rows: the rows of its data files; None where none can be read.
        findings: faults first, then remarks.
        features: the low-dimensional features, without bookkeeping.
        cameras: the cameras.
        episodes: the episodes, in the order of their frames.
    """

    root: Path
    reader: LeRobotReader | None
    rows: Rows | None
    findings: tuple[Finding, ...]
    features: tuple[FeatureFacts, ...] = ()
    cameras: tuple[CameraFacts, ...] = ()
    episodes: tuple[EpisodeFacts, ...] = field(default=())

    @property
    def faults(self) -> tuple[Finding, ...]:
        """The findings that a training should not start with."""
        return tuple(finding for finding in self.findings if finding.fault)

    @property
    def remarks(self) -> tuple[Finding, ...]:
        """All other findings."""
        return tuple(finding for finding in self.findings if not finding.fault)


def inspect_dataset(root: Path, *, decode: bool = False) -> Inspection:
    """Look at everything in a LeRobot dataset.

    Memory: the bookkeeping of all rows, and the values of one feature at a time.

    Args:
        root: the dataset's folder.
        decode: decode every frame of every video; without it, that each is there is read from the index.

    Raises:
        DatasetError: `root` is no folder with a LeRobot dataset.
    """
    if not (root / INFO_PATH).is_file():
        raise DatasetError(_no_dataset(root))
    findings = Findings()
    try:
        reader = LeRobotReader(root)
    except DatasetError as problem:
        findings.fault("metadata", str(problem))
        return Inspection(root, None, None, tuple(findings))
    rows = read_rows(reader, findings)
    check_lengths(reader, findings)
    check_tasks(reader, rows, findings)
    if rows is not None:
        check_timestamps(reader, rows, findings)
    features, cameras = _features(reader, rows, findings, decode)
    episodes = tuple(
        EpisodeFacts(int(number), int(length), tasks)
        for number, length, tasks in zip(
            reader.episodes.episode_index, reader.episodes.length, reader.episodes.tasks, strict=True
        )
    )
    ordered = tuple(sorted(findings, key=lambda finding: not finding.fault))
    return Inspection(root, reader, rows, ordered, features, cameras, episodes)


def _no_dataset(root: Path) -> str:
    """Say why a path is no LeRobot dataset, and what to do with one of another format."""
    if not root.exists():
        return f"{root}: there is no such folder"
    try:
        kind = detect(root)
    except (DatasetError, OSError):
        there = f"there is no {INFO_PATH} in it" if root.is_dir() else "it is a file"
        return f"{root}: {there}, so it is not a LeRobot dataset"
    return (
        f"{root}: this is no LeRobot dataset but {kind}; `trainer data convert {root} --to FOLDER` makes one "
        "of it, which can be looked at"
    )


def _features(
    reader: LeRobotReader, rows: Rows | None, findings: Findings, decode: bool
) -> tuple[tuple[FeatureFacts, ...], tuple[CameraFacts, ...]]:
    stored = _stored(reader, rows, findings)
    features: list[FeatureFacts] = []
    cameras: list[CameraFacts] = []
    digests = [hashlib.blake2b(digest_size=16) for _ in range(len(reader.episodes))]
    compared = False
    with progress_bar(len(reader.features), "looking at features", "feature", leave=False) as bar:
        for feature in reader.features.values():
            bar.set_postfix_str(feature.name)
            if feature.is_frames:
                cameras.append(check_camera(reader, feature, rows, findings, decode=decode, tick=bar.refresh))
            elif feature.is_numeric and feature.name not in BOOKKEEPING and rows is not None:
                facts = _feature(feature, rows, stored, findings, reader, digests)
                compared |= facts is not None
                features += [facts] if facts is not None else []
            elif not feature.is_numeric and not feature.is_text:
                findings.fault("dtype", feature.why_not_numeric(), feature=feature.name)
            bar.update()
    action = reader.features.get("action")
    if action is None or not action.is_numeric:
        findings.remark(
            "action", "there is no feature 'action' of numbers; what is predicted is named by `action_key`"
        )
    for name, what in names_beside({name: name for name in reader.features}).items():
        if name in reader.features:
            findings.fault("name", named_alike(name, what), feature=name)
    if compared and rows is not None and rows.complete:
        _report_twins(reader, [digest.digest() for digest in digests], findings)
    return tuple(features), tuple(cameras)


def _feature(
    feature: Feature,
    rows: Rows,
    stored: Stats | None,
    findings: Findings,
    reader: LeRobotReader,
    digests: list[hashlib.blake2b],
) -> FeatureFacts | None:
    try:
        column = rows.column(feature)
    except DatasetError as problem:
        findings.fault("column", str(problem), feature=feature.name)
        return None
    if rows.complete:
        ordered = column[np.argsort(rows.bookkeeping["index"], kind="stable")]
        for digest, start, length in zip(digests, reader.episodes.start, reader.episodes.length, strict=True):
            digest.update(np.ascontiguousarray(ordered[start : start + length]).tobytes())
        _compare_episodes(feature, ordered, reader, findings)
    return check_values(feature, column, rows, stored, findings)


def _compare_episodes(
    feature: Feature, ordered: np.ndarray, reader: LeRobotReader, findings: Findings
) -> None:
    """Hold the statistics that the dataset has of every episode against its numbers, in their order."""
    if ordered.dtype.kind == "f" and not np.isfinite(ordered).all():
        return
    table = reader.episodes
    try:
        stored = reader.episode_stats([feature.name]).get(feature.name, {})
    except DatasetError as problem:
        findings.remark("episode_stats", str(problem), feature=feature.name)
        return
    text = episode_difference(stored, ordered, table.length, table.episode_index)
    if text is not None:
        findings.remark("episode_stats", of_an_episode(feature.name, text), feature=feature.name)


def _stored(reader: LeRobotReader, rows: Rows | None, findings: Findings) -> Stats | None:
    """Return the writer's statistics where they can be held against the data."""
    try:
        stats = reader.stats
    except DatasetError as problem:
        findings.fault("stats", str(problem))
        return None
    if not stats and reader.info.version == "v2.1":
        return None  # that version has them by episode
    if not stats:
        findings.remark("stats", "there is no meta/stats.json; `trainer data stats --write` makes it")
        return None
    return stats if rows is not None and rows.complete else None


def _report_twins(reader: LeRobotReader, digests: list[bytes], findings: Findings) -> None:
    """Remark on episodes that are equal in every number."""
    first: dict[bytes, int] = {}
    twins: list[tuple[int, int]] = []
    for digest, number in zip(digests, reader.episodes.episode_index.tolist(), strict=True):
        if digest in first:
            twins.append((number, first[digest]))
        first.setdefault(digest, number)
    if twins:
        more = f" ({len(twins)} such episodes)" if len(twins) > 1 else ""
        findings.remark(
            "twin",
            f"episode {twins[0][0]} is number for number the same as episode {twins[0][1]}{more}",
            episodes=[number for number, _ in twins],
        )
