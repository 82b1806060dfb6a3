"""What a run folder says, as plain dataclasses; every part of it may be missing."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from trainer.checkpoint.names import parse_checkpoint_name
from trainer.pages.report.dataset_info import DatasetInfo, dataset_info
from trainer.pages.report.fields import (
    as_integer,
    as_interval,
    as_mapping,
    as_number,
    as_sequence,
    as_text,
    as_text_mapping,
    as_texts,
    as_time,
    moment_of,
    read_json,
    read_lines,
    read_text,
)
from trainer.pages.report.metrics import Metrics, read_metrics
from trainer.utils.text import Interval

# A folder with none of these is no run, and an empty page about it would help nobody.
RUN_FILES = (
    "run.json",
    "config.yaml",
    "metrics.jsonl",
    "evaluations.jsonl",
    "dataset.json",
    "first_batch.npz",
)


class ReportError(ValueError):
    """No report can be made of what was given; the message is one sentence."""


@dataclass(frozen=True)
class Component:
    """One model component of the run; `yaml` is the text of its model file, `yaml_name` its origin."""

    name: str
    parameters: int | None
    trainable: int | None
    frozen: bool
    optimizer: str | None
    yaml_name: str | None
    yaml: str | None


@dataclass(frozen=True)
class TakenUp:
    """A moment from which a run went on with other settings: dotted path, value before and value after."""

    iteration: int | None
    changes: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class RunInfo:
    """The facts of `run.json`; what the file does not say is `None` or empty."""

    command: tuple[str, ...] = ()
    started: datetime | None = None
    finished: datetime | None = None
    seed: int | None = None
    world_size: int | None = None
    device: str | None = None
    precision: str | None = None
    steps_per_epoch: int | None = None
    epochs: int | None = None
    train_seconds: float | None = None
    samples_per_step: float | None = None
    peak_memory: dict[str, float] = field(default_factory=dict)
    name: str | None = None
    taken_up: tuple[TakenUp, ...] = ()
    revision: str | None = None
    dirty: bool = False
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)
    components: tuple[Component, ...] = ()

    @property
    def seconds(self) -> float | None:
        """Training time: as recorded, else from start to finish."""
        if self.train_seconds is not None or self.started is None or self.finished is None:
            return self.train_seconds
        if (self.started.tzinfo is None) != (self.finished.tzinfo is None):
            return None
        return (self.finished - self.started).total_seconds()


@dataclass(frozen=True)
class Episode:
    """One rollout of an evaluation; `length` in control steps, `video` an existing file or `None`."""

    episode: int
    seed: str | None
    success: bool | None
    score: float | None
    length: int | None
    total_reward: float | None
    video: Path | None


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of one checkpoint; rates between 0 and 1, lengths in control steps."""

    name: str
    env: str
    checkpoint: str | None
    step: float | None
    epoch: float | None
    seed: int | None
    n_action_steps: int | None
    temporal_ensembling: float | None
    dataset: str | None
    count: int | None
    success_rate: float | None
    success_interval: Interval | None
    mean_score: float | None
    score_interval: Interval | None
    mean_length: float | None
    mean_return: float | None
    control_steps_per_s: float | None
    episodes: tuple[Episode, ...]
    notes: tuple[str, ...]
    versions: dict[str, str]

    @property
    def age(self) -> tuple[float, float]:
        """Sorts evaluations: by training progress, then by number of episodes."""
        known = [done for done in (self.step, self.epoch) if done is not None]
        return known[0] if known else -1.0, float(self.count or 0)


@dataclass(frozen=True)
class Run:
    """A run folder as far as it could be read.

    Attributes:
        problems: a sentence for each file that exists and could not be read.
    """

    folder: Path
    info: RunInfo | None
    config: str | None
    metrics: Metrics | None
    validations: Metrics | None
    evaluations: tuple[Evaluation, ...]
    dataset: DatasetInfo | None
    checkpoints: tuple[str, ...]
    latest: str | None
    problems: tuple[str, ...]

    @property
    def verdicts(self) -> tuple[Evaluation, ...]:
        """Of each environment the newest checkpoint's evaluation, of equal ones that with most episodes.

        The newest, not the best: the maximum over many noisy evaluations promises more than it keeps.
        """
        newest: dict[str, Evaluation] = {}
        for evaluation in self.evaluations:
            if evaluation.success_rate is None and evaluation.mean_score is None:
                continue
            known = newest.get(evaluation.env)
            if known is None or evaluation.age >= known.age:
                newest[evaluation.env] = evaluation
        return tuple(newest.values())


def read_verdicts(folder: Path) -> list[str]:
    """Return one sentence per environment in which a run was tried out."""
    sentences = []
    for one in read_run(folder).verdicts:
        rate = "no success rate" if one.success_rate is None else f"success rate {one.success_rate:.1%}"
        interval = one.success_interval
        limits = f" (95 % interval {interval[0]:.1%} to {interval[1]:.1%})" if interval else ""
        score = "" if one.mean_score is None else f", mean score {one.mean_score:.3f}"
        sentences.append(f"{one.env}: {rate}{limits}{score}, {one.count} episodes, {one.checkpoint}")
    return sentences


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        ReportError: `folder` is no folder, or holds no file of a run.
    """
    if not folder.is_dir():
        raise ReportError(f"{folder} is not a folder; give the `save_dir` of a run.")
    if not any((folder / name).exists() for name in (*RUN_FILES, "evaluations")):
        message = f"{folder} holds no file of a run, such as {RUN_FILES[0]} or {RUN_FILES[2]}"
        runs = sorted(str(path.parent) for path in folder.glob(f"*/{RUN_FILES[0]}"))
        raise ReportError(f"{message}; there are runs in it: {' '.join(runs)}" if runs else f"{message}.")
    problems: list[str] = []
    raw_info = read_json(folder / "run.json", problems)
    info = None if raw_info is None else _run_info(raw_info, folder)
    raw_dataset = read_json(folder / "dataset.json", problems)
    latest = read_text(folder / "latest", problems)
    names = [path.name for path in folder.iterdir() if parse_checkpoint_name(path.name) and path.is_dir()]
    return Run(
        folder=folder,
        info=info,
        config=read_text(folder / "config.yaml", problems),
        metrics=_metrics(folder / "metrics.jsonl", problems),
        validations=_metrics(folder / "validations.jsonl", problems),
        evaluations=_evaluations(folder, info, problems),
        dataset=None if raw_dataset is None else dataset_info(raw_dataset),
        checkpoints=tuple(sorted(names, key=lambda name: _age(name, info))),
        latest=latest.strip() if latest else None,
        problems=tuple(problems),
    )


def _age(checkpoint: str, info: RunInfo | None) -> float:
    """Return how far a checkpoint of the run has come, in updates if their number is known."""
    kind, number = parse_checkpoint_name(checkpoint) or ("", 0)
    return number * ((info and info.steps_per_epoch) or 1) if kind == "epoch" else number


def _metrics(path: Path, problems: list[str]) -> Metrics | None:
    if not path.exists():
        return None
    try:
        return read_metrics(path)
    except OSError as error:
        problems.append(f"{path.name} cannot be read: {error.strerror}.")
        return None


def _run_info(raw: dict[str, Any], folder: Path) -> RunInfo:
    git = as_mapping(raw.get("git"))
    return RunInfo(
        command=as_texts(raw.get("command")),
        started=as_time(raw.get("started")),
        finished=as_time(raw.get("finished")),
        seed=as_integer(raw.get("seed")),
        world_size=as_integer(raw.get("world_size")),
        device=as_text(raw.get("device")),
        precision=as_text(raw.get("precision")),
        steps_per_epoch=as_integer(raw.get("steps_per_epoch")),
        epochs=as_integer(raw.get("epochs")),
        train_seconds=as_number(raw.get("train_seconds")),
        samples_per_step=as_number(raw.get("samples_per_step")),
        peak_memory=_numbers(raw.get("peak_memory")),
        name=as_text(raw.get("name")),
        taken_up=tuple(_taken_up(as_mapping(entry)) for entry in as_sequence(raw.get("taken_up"))),
        revision=as_text(git.get("revision")),
        dirty=git.get("dirty") is True,
        versions=as_text_mapping(raw.get("versions")),
        machine=as_text_mapping(raw.get("machine")),
        components=tuple(
            _component(as_mapping(entry), folder) for entry in as_sequence(raw.get("components")) if entry
        ),
    )


def _taken_up(raw: dict[str, Any]) -> TakenUp:
    changes = [as_mapping(entry) for entry in as_sequence(raw.get("changes"))]
    return TakenUp(
        iteration=as_integer(raw.get("iteration")),
        changes=tuple(
            (as_text(one.get("setting")) or "", json.dumps(one.get("before")), json.dumps(one.get("after")))
            for one in changes
        ),
    )


def _component(raw: dict[str, Any], folder: Path) -> Component:
    name = as_text(raw.get("name")) or "unnamed"
    # The name comes from a file: it may not lead out of the run folder.
    path = folder / "models" / f"{Path(name).name}.yaml"
    return Component(
        name=name,
        parameters=as_integer(raw.get("parameters")),
        trainable=as_integer(raw.get("trainable")),
        frozen=raw.get("frozen") is True,
        optimizer=as_text(raw.get("optimizer")),
        yaml_name=as_text(raw.get("yaml")),
        yaml=read_text(path, []),
    )


def _numbers(raw: Any) -> dict[str, float]:
    found = {str(name): as_number(value) for name, value in as_mapping(raw).items()}
    return {name: value for name, value in found.items() if value is not None}


def _evaluations(folder: Path, info: RunInfo | None, problems: list[str]) -> tuple[Evaluation, ...]:
    """Join the lines of `evaluations.jsonl` with the folders below `evaluations/`, oldest first."""
    records: dict[str, dict[str, Any]] = {}
    for position, line in enumerate(read_lines(folder / "evaluations.jsonl", problems), start=1):
        # Only the name counts: a path in a file may not lead out of the run folder.
        name = Path(as_text(line.get("folder")) or "").name
        records[f"evaluations/{name}" if name else f"evaluation {position}"] = line
    for path in sorted((folder / "evaluations").glob("*/results.json")):
        result = read_json(path, problems)
        if result is not None:
            name = f"evaluations/{path.parent.name}"
            records[name] = {**records.get(name, {}), **result}
    evaluations = [_evaluation(name, raw, folder, info) for name, raw in records.items()]
    return tuple(sorted(evaluations, key=lambda evaluation: evaluation.age))


def _evaluation(name: str, raw: dict[str, Any], folder: Path, info: RunInfo | None) -> Evaluation:
    checkpoint = as_text(raw.get("checkpoint"))
    moment = moment_of(checkpoint or "") or moment_of(name)
    epoch, step = as_number(raw.get("epoch")), as_number(raw.get("step"))
    if epoch is None and step is None and moment is not None:
        epoch, step = (moment[1] if moment[0] == kind else None for kind in ("epoch", "step"))
    if info is not None and info.steps_per_epoch:
        if step is None and epoch is not None:
            step = epoch * info.steps_per_epoch
        if epoch is None and step is not None:
            epoch = step / info.steps_per_epoch
    episodes = raw.get("episodes")
    rows = tuple(
        _episode(position, as_mapping(entry), folder / name)
        for position, entry in enumerate(as_sequence(episodes))
        if isinstance(entry, dict)
    )
    return Evaluation(
        name=name,
        env=as_text(raw.get("env")) or "unnamed environment",
        checkpoint=checkpoint,
        step=step,
        epoch=epoch,
        seed=as_integer(raw.get("seed")),
        n_action_steps=as_integer(raw.get("n_action_steps")),
        temporal_ensembling=as_number(raw.get("temporal_ensembling")),
        dataset=as_text(raw.get("dataset")),
        count=len(rows) or as_integer(episodes),
        success_rate=as_number(raw.get("success_rate")),
        success_interval=as_interval(raw.get("success_interval")),
        mean_score=as_number(raw.get("mean_score")),
        score_interval=as_interval(raw.get("score_interval")),
        mean_length=as_number(raw.get("mean_length")),
        mean_return=as_number(raw.get("mean_return")),
        control_steps_per_s=as_number(raw.get("control_steps_per_s")),
        episodes=rows,
        notes=as_texts(raw.get("notes")),
        versions=as_text_mapping(raw.get("versions")),
    )


def _episode(position: int, raw: dict[str, Any], folder: Path) -> Episode:
    number = as_integer(raw.get("episode"))
    success = raw.get("success")
    video_name = as_text(raw.get("video"))
    # Only files of the evaluation itself: a name in a file may not pull others into the page.
    video = folder / Path(video_name).name if video_name else None
    return Episode(
        episode=position if number is None else number,
        seed=as_text(raw.get("seed")),
        success=success if isinstance(success, bool) else None,
        score=as_number(raw.get("score")),
        length=as_integer(raw.get("length")),
        total_reward=as_number(raw.get("return")),
        video=video,
    )
