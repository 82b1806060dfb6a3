"""Finding the run that a save_dir already holds, and making sure that it is the same experiment."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from trainer.checkpoint.folder import (
    CheckpointError,
    checkpoint_folders,
    find_checkpoint,
    iteration_of,
    newest_good_checkpoint,
    point_at,
    read_manifest,
    read_pointer,
)
from trainer.checkpoint.lock import LOCK
from trainer.checkpoint.names import BEST, CONFIG, LATEST, MODELS
from trainer.config.paths import output_path
from trainer.config.schemas import ExperimentConfig
from trainer.config.section import section_in
from trainer.engine.check import CheckedConfig, converted
from trainer.engine.run_folder import flat_model, now, read_run_facts, restarted_launch
from trainer.registry import DATASET_BUILDER_REGISTRY


def checkpoint_to_resume(
    checked: CheckedConfig, global_batch: int, steps_per_epoch: int | None
) -> TakenUp | None:
    """Return the checkpoint to take up and what has changed since, or None for a new run.

    Args:
        checked: the checked configuration.
        global_batch: samples per update over all ranks.
        steps_per_epoch: updates per epoch; None without epochs.

    Raises:
        ConfigError: the checkpoint was made by another experiment, and what differs.
        CheckpointError: it is missing, incomplete or damaged.
    """
    asked = checked.config.train.checkpoint.resume_from
    launch, has_saved = restarted_launch(), (checked.run / LATEST).exists()
    if has_saved and launch is not None and read_run_facts(checked.run).get("launch") == launch:
        asked = "auto"  # this launch has begun the run, and started its ranks again
    if asked is None or (asked == "auto" and not has_saved):
        return None
    folder, manifest = _good(checked.run if asked == "auto" else output_path(asked, checked.located.path))
    if CONFIG not in manifest["files"]:
        raise CheckpointError(f"checkpoint {folder} has no {CONFIG}, so nothing can go on from it")
    found = changes(checked, folder, manifest, global_batch, steps_per_epoch)
    changed = list(dict.fromkeys(one.said for one in found if not one.is_allowed))
    if changed:
        message = f"{folder} was made with other settings ({', '.join(changed)})"
        hint = "choose another save_dir, or set the old values to go on with this run"
        raise checked.mistake(("train", "save_dir"), message, hint)
    return TakenUp(folder, found)


@dataclass(frozen=True)
class TakenUp:
    """A checkpoint from which a run goes on.

    Attributes:
        folder: the checkpoint.
        changes: the settings that are not those with which it was made.
    """

    folder: Path
    changes: Sequence[Change]


@dataclass(frozen=True)
class Change:
    """One difference between the settings of a run and those that it would go on with.

    Attributes:
        what: dotted path of the setting, or what else differs.
        before: its value in the run.
        after: its value now.
        is_allowed: a run may change it without becoming another one.
        said: the change in a word or two.
    """

    what: str
    before: Any
    after: Any
    is_allowed: bool
    said: str


def changes(
    checked: CheckedConfig,
    folder: Path,
    manifest: Mapping[str, Any],
    global_batch: int,
    steps_per_epoch: int | None,
) -> list[Change]:
    """Return everything that differs from the settings with which a checkpoint was made.

    Args:
        checked: the checked configuration.
        folder: the checkpoint, which holds its configuration.
        manifest: that of the checkpoint.
        global_batch: samples per update over all ranks.
        steps_per_epoch: updates per epoch; None without epochs.
    """
    before = _with_defaults(yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8")))
    free = {*may_change(ExperimentConfig), *_free_data_parameters(checked.config)}
    found = [
        Change(path, was, now, _is_within(path, free), path)
        for path, (was, now) in sorted(_differences(before, resolved(checked.config)).items())
    ]
    for name, path in checked.component_paths.items():
        was, now = _read_yaml(folder / MODELS / f"{name}.yaml"), flat_model(path)
        said = f"the model YAML of '{name}'"
        found += [
            Change(f"{name}: {key}", *values, False, said)
            for key, values in sorted(_differences(was, now).items())[: None if was else 1]
        ]
    sizes = {"global batch": global_batch, "steps per epoch": steps_per_epoch}
    for name, value in sizes.items():
        was = manifest.get(name.replace(" ", "_"), value)
        if was != value:
            found.append(Change(name, was, value, False, f"{name} {value} instead of {was}"))
    return found


def _is_within(path: str, sections: Collection[str]) -> bool:
    return any(path == section or path.startswith(f"{section}.") for section in sections)


def _good(path: Path) -> tuple[Path, dict[str, Any]]:
    """Return the checkpoint that a path means and its manifest.

    Raises:
        CheckpointError: it is damaged, and which one is not. An older one is never taken unasked: what came
            after it would be trained anew, and perhaps the damage can be mended.
    """
    try:
        folder = find_checkpoint(path)
        return folder, read_manifest(folder)
    except CheckpointError as error:
        run = path if (path / LATEST).exists() else path.parent
        good = newest_good_checkpoint(run)
        if good is None:
            raise
        name = f"train.checkpoint.resume_from={good[0]}"
        message = str(error).removesuffix("; use another checkpoint")
        raise CheckpointError(
            f"{message}; the newest whole checkpoint is {good[0].name}, after {good[1]:,} updates: "
            f"go on from it with --set {name}"
        ) from error


def _with_defaults(before: Any) -> Any:
    """Return a configuration of an earlier version with the defaults of what has been added since."""
    try:
        return resolved(converted(ExperimentConfig.model_validate(before)))
    except ValidationError:
        return before


def set_aside(run: Path) -> Path | None:
    """Move an earlier run out of the way of a new one, and return where it went; nothing is deleted."""
    if not (run / LATEST).exists():
        return None
    aside = _with_time(run.with_name(f"{run.name}.until-"))
    run.rename(aside)
    if (aside / LOCK).exists():  # it is held, and belongs to the run that begins
        run.mkdir()
        (aside / LOCK).rename(run / LOCK)
    return aside


def set_aside_later(run: Path, taken_up: Path) -> Path | None:
    """Move out of the way what a run saved after a checkpoint from which it goes on; nothing is deleted.

    The two would be mixed: what is kept would be counted over both, and `best` might name what the run has
    not come to yet. Where the checkpoint is another run's, all that this one saved goes.

    Args:
        run: the run folder.
        taken_up: the checkpoint.

    Returns:
        Where it went; None if there was nothing.
    """
    inside = is_in(taken_up, run)
    until = iteration_of(taken_up) if inside else -1
    assert until is not None
    folders = [path for _, _, path in checkpoint_folders(run)] if run.is_dir() else []
    later = [path for path in folders if (iteration_of(path) or 0) > until]
    if not later:
        return None
    best = read_pointer(run, BEST)
    if best and (best[0] in {p.name for p in later} or best[1].get("iteration", 0) > until):
        (run / BEST).unlink()
    if inside:  # first, so that a process that is killed here leaves a run that can be taken up
        point_at(run, LATEST, taken_up.name)
    else:
        (run / LATEST).unlink(missing_ok=True)
    aside = _with_time(run / "set_aside-")
    aside.mkdir()
    for path in later:
        path.rename(aside / path.name)
    return aside


def is_in(checkpoint: Path, run: Path) -> bool:
    """Say whether a checkpoint is one of a run."""
    return checkpoint.parent.resolve() == run.resolve()


def may_change(section: type[BaseModel], path: str = "") -> Iterator[str]:
    """Yield the dotted paths of the settings that a resumed run may change without becoming another run.

    The fields of the schema say it. The batch size may change with the number of ranks: what counts is the
    global batch, which is compared.
    """
    for name, field in section.model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get("resume") == "may_change":
            yield f"{path}{name}"
        elif (below := section_in(field.annotation, containers=False)) is not None:
            yield from may_change(below, f"{path}{name}.")


def _free_data_parameters(config: ExperimentConfig) -> list[str]:
    """Return the parameters of the dataset of which its factory says that they do not change the samples."""
    factory = DATASET_BUILDER_REGISTRY.get(config.data.datamodule.type)
    return [f"data.datamodule.params.{name}" for name in getattr(factory, "may_change", ())]


def _with_time(start: Path) -> Path:
    """Return a path that is free and says when it was made."""
    path = named = start.with_name(start.name + now().replace(":", "").replace("+0000", ""))
    for number in itertools.count(2):
        if not path.exists():
            break
        path = named.with_name(f"{named.name}-{number}")
    return path


def resolved(config: ExperimentConfig) -> dict[str, Any]:
    """Return the configuration with every default filled in, as plain YAML values."""
    plain: dict[str, Any] = config.model_dump(mode="json")
    return plain


def _read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None


def _differences(before: Any, after: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """Return dotted path → the two values, of everything that differs."""
    if before == after:
        return {}
    if isinstance(before, dict) and isinstance(after, dict):
        found = {}
        for key in [*before, *(k for k in after if k not in before)]:
            below = f"{path}.{key}" if path else str(key)
            found.update(_differences(before.get(key), after.get(key), below))
        return found
    return {path: (before, after)}
