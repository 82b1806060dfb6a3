"""Putting an experiment together: components, optimizers, trainer, batches, and the run that was before."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.checkpoint.writer import CheckpointWriter
from trainer.config.parameters import receivers
from trainer.config.paths import project_folder
from trainer.config.schemas import ExperimentConfig
from trainer.config.validation import Issues
from trainer.data.batch_path import BatchPath
from trainer.data.batches import Batches, BatchesFactory
from trainer.data.columns import ACTION, columns_of, pictures_of, to_facts
from trainer.data.errors import DatasetError
from trainer.data.loader import BatchLoader
from trainer.data.normalization import CURRENT, PROPRIO, STATE
from trainer.engine.build_data import Data
from trainer.engine.check import DATAMODULE, CheckedConfig
from trainer.engine.effects import check_watched
from trainer.engine.experiment import Experiment
from trainer.engine.finite import LossWatch
from trainer.engine.inputs import check_same_robot
from trainer.engine.misfit import misfit
from trainer.engine.parts import build_components, build_objective, build_optimizers, build_trainer
from trainer.engine.rehearsal import rehearse
from trainer.engine.resume import checkpoint_to_resume, resolved, set_aside
from trainer.engine.run_description import describe_run
from trainer.engine.run_folder import read_run_facts, write_run_facts
from trainer.engine.tracking import Tracker
from trainer.engine.update import Update, UpdateSettings
from trainer.engine.validation import Validation
from trainer.modeling.component import Components
from trainer.registry import DATASET_BUILDER_REGISTRY
from trainer.runtime import Runtime
from trainer.templates import Callback, Objective, Policy, RunIdentity
from trainer.utils.errors import TrainingFault
from trainer.utils.log import log
from trainer.utils.seed import kept_random_state, set_global_seed


def assemble(
    checked: CheckedConfig,
    data: Data,
    runtime: Runtime,
    callbacks: Sequence[Callback] = (),
    batches: BatchesFactory | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Experiment:
    """Build an experiment from a checked configuration and its data.

    One seed on all ranks while models are built, then `seed + rank` for dropout and whatever else draws from
    the global generators. A run that `save_dir` already holds is taken up where it stopped.

    Args:
        checked: the checked configuration.
        data: what it trains on.
        runtime: this rank.
        callbacks: what rooms that this one does not know add, between validation and the callbacks of the
            configuration.
        batches: makes the source of batches from that of the demonstrations; it alone if not given.
        facts: those of an experiment that was assembled from the same before, which spares the rehearsal.

    Raises:
        ConfigError: the run in `save_dir` was made with other settings.
    """
    config, run = checked.config, checked.run
    runtime.barrier()  # rank 0 is the only writer from here on, so all ranks see the same checkpoints
    cameras = pictures_of(data.dataset)
    path = BatchPath(data.normalizer, runtime.device, cameras, config.data.pin_memory)
    drawn: Batches = _build_loader(config, data, runtime, path)
    if batches is not None:
        drawn = batches(drawn, path, runtime)
    resumed = checkpoint_to_resume(checked, drawn.samples_per_update, drawn.steps_per_epoch)
    own = None if resumed is None else resumed.folder.name
    seen = runtime.from_main(own)
    if seen != own:
        raise TrainingFault(
            f"rank 0 goes on from {seen or 'nothing'} and rank {runtime.rank} from "
            f"{own or 'nothing'}: {run} must be the same folder for all ranks"
        )
    set_global_seed(config.seed, config.deterministic)
    components = build_components(checked, runtime, pretrained=resumed is None)
    try:
        total_steps = config.total_steps(drawn.steps_per_epoch)
    except ValueError as error:
        raise checked.mistake(("train", "max_steps"), str(error)) from error
    optimizers = build_optimizers(checked, components, total_steps)
    update = Update(components, optimizers, _update_settings(config, runtime), runtime.device)
    policy = build_objective(checked, runtime, components)
    trainer = build_trainer(checked, runtime, components, update, policy)
    set_global_seed(config.run_seed + runtime.rank, config.deterministic)
    if facts is None:
        facts = _described(data)
        if policy is not None:
            facts["reads"] = _rehearse(checked, policy, components, drawn, facts, runtime)
            _check_robot(checked, facts)
    if config.train.compile.enabled:
        components.compile(config.train.compile.backend, config.train.compile.mode)
    validation, held_out = _build_validation(checked, data, path)
    experiment = Experiment(
        config=config,
        runtime=runtime,
        run=run,
        project=project_folder(checked.located.path),
        trainer=trainer,
        policy=policy,
        components=components,
        update=update,
        optimizers=optimizers,
        batches=drawn,
        normalizer=data.normalizer,
        augmentation=data.augmentation,
        facts=facts,
        stats=data.norm_stats,
        tracker=Tracker(
            run,
            runtime,
            config.train.log_every_n_steps,
            LossWatch(skipping=update.finite is not None).look,
        ),
        writer=CheckpointWriter(run, config.train.checkpoint.keep, epochs=drawn.steps_per_epoch is not None),
        batch_metrics=data.dataset.batch_metrics,
        callbacks=[*validation, *callbacks, *checked.callbacks.values()],
        validation_data=held_out,
    )
    if resumed is not None:
        experiment.saving.restore(resumed.folder)
    if runtime.is_main:
        aside = set_aside(run) if resumed is None else None
        if aside is not None:
            log.info(f"The earlier run of {run} is now {aside}.")
        describe_run(checked, data, experiment, total_steps, () if resumed is None else resumed.changes)
        with kept_random_state():
            first_step = max(experiment.progress.iteration - 1, 0)
            experiment.tracker.start(checked.loggers, _identity(config, run, first_step))
    runtime.barrier()
    return experiment


def _described(data: Data) -> dict[str, Any]:
    """Return what the dataset says of itself, and how each of its columns is normalized."""
    columns = columns_of(data.dataset)
    described = {} if columns is None else {"columns": to_facts(columns, data.normalizer.modes)}
    return {**data.dataset.facts(), **described}


def _rehearse(
    checked: CheckedConfig,
    policy: Objective,
    components: Components,
    batches: Batches,
    facts: Mapping[str, Any],
    runtime: Runtime,
) -> list[str] | None:
    """Try the policy on two samples; what does not fit is a mistake in the configuration.

    Returns:
        The observations from which the policy predicts an action; None where nothing acts.
    """
    try:
        rehearsed = rehearse(policy, components.called, batches, facts, runtime)
    except DatasetError as error:
        raise checked.mistake(DATAMODULE, str(error)) from error
    except (ValueError, RuntimeError, TypeError, KeyError, IndexError) as error:
        modules = {name: component.module for name, component in components.items()}
        raise misfit(checked, modules, error) from error
    issues = Issues(checked.located)
    check_watched(
        issues, checked.config, checked.callbacks, list(checked.metrics), rehearsed.losses, checked.others
    )
    issues.raise_if_any()
    windows = [name for name in facts.get("windows", {}) if name != ACTION]
    by_loss, by_prediction = (_with_joined(read) for read in (rehearsed.by_loss, rehearsed.by_prediction))
    _announce_unread(checked, windows, by_loss | by_prediction)
    return [name for name in windows if name in by_prediction] if isinstance(policy, Policy) else None


def _announce_unread(checked: CheckedConfig, windows: Sequence[str], read: Collection[str]) -> None:
    """Say which observations are loaded in vain, and the setting that leaves them out.

    They stay, because a policy may read what its first pass did not: in training only, or from some step on.
    """
    unread = [f"'{name}'" for name in windows if name not in read]
    if not unread:
        return
    datamodule = checked.config.data.datamodule
    targets = receivers(DATASET_BUILDER_REGISTRY.get(datamodule.type))
    how = "leave out what it never reads of the features of the dataset"
    if any("features" in inspect.signature(target).parameters for target in targets):
        used = ", ".join(name for name in windows if name in read)
        how = f"if it never does, write data.datamodule.params.features: [{used}]"
    what, which = ("is", "it") if len(unread) == 1 else ("are", "them")
    log.warning(
        f"{', '.join(unread)} {what} loaded, but the policy does not read {which} in its first pass; {how}, "
        "and training may be faster, above all without frames of cameras to decode."
    )


def _check_robot(checked: CheckedConfig, facts: Mapping[str, Any]) -> None:
    """Refuse to evaluate on a robot that has not what the policy reads."""
    issues = Issues(checked.located)
    check_same_robot(issues, checked.config, checked.robots, facts, facts["reads"] or ())
    issues.raise_if_any()


def _with_joined(read: set[str]) -> set[str]:
    """Return what is read of a dataset: the state in a batch may hold the currents, and has a copy."""
    return read | {STATE, CURRENT} if read & {STATE, PROPRIO} else read


def _build_loader(config: ExperimentConfig, data: Data, runtime: Runtime, path: BatchPath) -> BatchLoader:
    settings = config.data
    return BatchLoader(
        data.dataset,
        batch_size=settings.batch_size,
        path=path,
        rank=runtime.rank,
        world_size=runtime.world_size,
        micro_batches=config.train.accumulate_grad_batches,
        seed=config.run_seed,
        num_workers=settings.num_workers,
        persistent_workers=settings.persistent_workers,
        prefetch_factor=settings.prefetch_factor,
        frame_memory=settings.frame_memory * 2**20,
    )


def _update_settings(config: ExperimentConfig, runtime: Runtime) -> UpdateSettings:
    train, non_finite = config.train, config.train.non_finite
    if non_finite == "auto":
        non_finite = "lower" if runtime.precision == "fp16" else "stop"
    return UpdateSettings(
        gradient_clip_val=train.gradient_clip_val,
        clip_globally=train.gradient_clip_scope == "global",
        non_finite=non_finite,
        ema_decay=train.ema.decay if train.ema.enabled else None,
    )


def _build_validation(
    checked: CheckedConfig, data: Data, path: BatchPath
) -> tuple[list[Callback], BatchLoader | None]:
    """Return what validates and its samples, or nothing."""
    settings = checked.config.data.validation
    if settings is None or data.held_out is None:
        return [], None
    loader = BatchLoader(data.held_out, batch_size=1, path=path)
    return [Validation(settings, checked.metrics)], loader


def _identity(config: ExperimentConfig, run: Path, first_step: int) -> RunIdentity:
    """Return how loggers know the run; the same when it is taken up again."""
    identity = read_run_facts(run).get("wandb_id") or uuid.uuid4().hex[:8]
    write_run_facts(run, {"wandb_id": identity})
    name = config.train.project_name
    project = str(config.data.datamodule.params.get("task_name") or name)
    return RunIdentity(run, project, name, resolved(config), identity, first_step)
