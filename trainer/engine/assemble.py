"""Putting an experiment together: components, optimizers, trainer, batches, and the run that was before."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer.checkpoint.folder import read_manifest, weights_folder
from trainer.checkpoint.names import CONFIG, DATASET, MANIFEST, MODELS, STATS
from trainer.checkpoint.writer import CheckpointWriter
from trainer.config.parameters import receivers
from trainer.config.paths import find_input, project_folder
from trainer.config.schemas import ExperimentConfig
from trainer.config.validation import Issues
from trainer.data.batch_path import BatchPath
from trainer.data.batches import Batches, BatchesFactory
from trainer.data.columns import ACTION, columns_of, pictures_of, to_facts
from trainer.data.loader import BatchLoader
from trainer.data.normalization import CURRENT, PROPRIO, STATE
from trainer.data.stats_file import save_stats
from trainer.deployment.robot_policy import (
    build_loss,
    build_models,
    build_policy,
    load_component,
    own_state,
)
from trainer.engine.build_data import Data
from trainer.engine.check import CheckedConfig
from trainer.engine.effects import check_watched
from trainer.engine.experiment import Experiment
from trainer.engine.finite import LossWatch
from trainer.engine.inputs import check_same_robot
from trainer.engine.misfit import misfit
from trainer.engine.optimizers import build_optimizer
from trainer.engine.rehearsal import rehearse
from trainer.engine.resume import checkpoint_to_resume, resolved, set_aside
from trainer.engine.run_folder import (
    environment_facts,
    flat_model,
    now,
    read_run_facts,
    write_run_facts,
    write_yaml,
)
from trainer.engine.tracking import BESIDE, METRICS, Tracker, forget_from
from trainer.engine.update import Update, UpdateSettings
from trainer.engine.validation import Validation
from trainer.modeling.component import Component, Components, Parallel, check_state
from trainer.modeling.initialize import count_parameters, freeze, init_weights
from trainer.registry import DATASET_BUILDER_REGISTRY, TRAINER_REGISTRY
from trainer.runtime import Runtime
from trainer.templates import Callback, Objective, Policy, RunIdentity
from trainer.utils.errors import TrainingFault
from trainer.utils.files import write_json
from trainer.utils.import_utils import instantiate
from trainer.utils.log import log
from trainer.utils.seed import kept_random_state, set_global_seed


def assemble(
    checked: CheckedConfig,
    data: Data,
    runtime: Runtime,
    callbacks: Sequence[Callback] = (),
    batches: BatchesFactory | None = None,
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
    seen = runtime.from_main(None if resumed is None else resumed.name)
    if seen != (None if resumed is None else resumed.name):
        raise TrainingFault(
            f"rank 0 goes on from {seen or 'nothing'} and rank {runtime.rank} from "
            f"{resumed.name if resumed else 'nothing'}: {run} must be the same folder for all ranks"
        )
    set_global_seed(config.seed, config.deterministic)
    components = _build_components(checked, runtime, pretrained=resumed is None)
    try:
        total_steps = config.total_steps(drawn.steps_per_epoch)
    except ValueError as error:
        raise checked.mistake(("train", "max_steps"), str(error)) from error
    optimizers = _build_optimizers(checked, components, total_steps)
    update = Update(components, optimizers, _update_settings(config, runtime), runtime.device)
    policy = _build_policy(checked, runtime, components)
    trainer = _build_trainer(checked, runtime, components, update, policy)
    set_global_seed(config.run_seed + runtime.rank, config.deterministic)
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
        writer=CheckpointWriter(run, config.train.checkpoint.keep),
        batch_metrics=data.dataset.batch_metrics,
        callbacks=[*validation, *callbacks, *checked.callbacks.values()],
        validation_data=held_out,
    )
    if resumed is not None:
        experiment.restore(resumed)
    if runtime.is_main:
        aside = set_aside(run) if resumed is None else None
        if aside is not None:
            log.info(f"The earlier run of {run} is now {aside}.")
        _write_run_folder(checked, data, experiment, total_steps)
        with kept_random_state():
            first_step = max(experiment.progress.iteration - 1, 0)
            experiment.tracker.start(checked.loggers, _identity(config, run, first_step))
    runtime.barrier()
    return experiment


def untrained(checked: CheckedConfig, runtime: Runtime) -> tuple[Components, Objective | None]:
    """Return the models with which a training would begin, and their policy; None where no class is named.

    Nothing is read of an earlier run, and nothing is written.

    Raises:
        ConfigError: a component or the policy cannot be built.
    """
    with kept_random_state():
        set_global_seed(checked.config.seed)
        components = _build_components(checked, runtime, pretrained=True)
        return components, _build_policy(checked, runtime, components)


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


def _build_components(checked: CheckedConfig, runtime: Runtime, pretrained: bool) -> Components:
    """Build, load or initialise, freeze and distribute each component, in the order of the configuration.

    Args:
        checked: the experiment.
        runtime: this rank.
        pretrained: read the weights of others; in vain where a checkpoint brings all weights.
    """
    config = checked.config
    source = _load_folder(checked)
    built = build_models(checked.component_paths, pretrained and source is None)
    parallel = _parallel(checked, runtime)
    components, issues = [], Issues(checked.located)
    for name, module in built.items():
        flags = config.model.component_build_args.get(name)
        if source is not None:
            load_component(module, source / f"{name}.pt")
        elif flags is not None and flags.init:
            init_weights(module)
        if name not in config.optimizers:
            freeze(module)
        try:
            unused = config.model.find_unused_parameters
            components.append(Component(name, module, runtime, parallel, unused))
        except ValueError as error:
            issues.add(("model", "component_config_paths", name), str(error))
    issues.raise_if_any()
    return Components(components)


def _parallel(checked: CheckedConfig, runtime: Runtime) -> Parallel:
    """Return how components lie on the ranks."""
    asked = checked.config.train.parallel
    if not runtime.grouped:
        if asked in ("ddp", "fsdp"):
            log.warning(f"train.parallel: {asked} has no effect in one process.")
        return "none"
    if asked == "none" and runtime.distributed and _policy_class(checked) is not None:
        message = f"with none, {runtime.world_size} ranks would train as many models that differ"
        raise checked.mistake(("train", "parallel"), message, "use ddp or fsdp")
    return asked or ("ddp" if runtime.distributed else "none")


def _load_folder(checked: CheckedConfig) -> Path | None:
    value = checked.config.train.load_dir
    found = (
        find_input(value, checked.located.search_paths(("train", "load_dir"))) if value is not None else None
    )
    folder = None if found is None else weights_folder(found, checked.component_paths)
    if folder is not None and (folder / MANIFEST).exists():
        read_manifest(folder)
    return folder


def _build_optimizers(
    checked: CheckedConfig, components: Components, total_steps: int
) -> dict[str, torch.optim.Optimizer]:
    """Build the optimizer of every component that has one and something to train."""
    optimizers, issues = {}, Issues(checked.located)
    for name, (path, spec) in checked.config.optimizers.items():
        if not components[name].trained:
            continue
        try:
            parameters = list(components[name].module.parameters())
            optimizers[name] = build_optimizer(spec, parameters, total_steps)
        except ValueError as error:
            issues.add((*path, "params"), str(error))
            continue
        if not all(hasattr(optimizers[name], attribute) for attribute in _OPTIMIZER):
            message = _broken_promise("optimizer_builder", spec.type, optimizers[name], "an optimizer")
            issues.add(path, message)
    if not optimizers and not issues.found and _policy_class(checked) is not None:
        message = "no component has an optimizer and parameters to train, so nothing would be trained"
        issues.add(("model",), message, "name one under component_optims, or train.optimizer for all")
    issues.raise_if_any()
    return optimizers


def _policy_class(checked: CheckedConfig) -> Any:
    """Return the class of the policy that the trainer's class names, or None."""
    return getattr(TRAINER_REGISTRY.get(checked.config.train.trainer.type), "policy_class", None)


_OPTIMIZER = ("step", "zero_grad", "param_groups", "state_dict", "load_state_dict")


def _broken_promise(registry: str, key: str, returned: Any, promised: str) -> str:
    given = "nothing" if returned is None else f"a {type(returned).__name__}"
    return f"{registry} '{key}' must return {promised} from its build, it returned {given}"


def _build_loss(checked: CheckedConfig) -> nn.Module | None:
    """Build the loss of `train.loss`, or None without one."""
    spec = checked.config.train.loss
    try:
        loss = build_loss(spec)
    except ValueError as error:
        raise checked.mistake(("train", "loss", "params"), str(error)) from error
    if spec is not None and not callable(loss):
        raise checked.mistake(("train", "loss"), _broken_promise("loss_builder", spec.type, loss, "a module"))
    return loss


def _update_settings(config: ExperimentConfig, runtime: Runtime) -> UpdateSettings:
    train = config.train
    return UpdateSettings(
        gradient_clip_val=train.gradient_clip_val,
        clip_globally=train.gradient_clip_scope == "global",
        non_finite=_non_finite(train.non_finite, runtime.precision),
        ema_decay=train.ema.decay if train.ema.enabled else None,
    )


def _build_policy(checked: CheckedConfig, runtime: Runtime, components: Components) -> Objective | None:
    """Build the policy that the trainer's class names, if it names one."""
    policy_class = _policy_class(checked)
    if policy_class is None:
        return None
    path = ("train", "trainer")
    if not issubclass(policy_class, Objective):
        message = f"{policy_class.__name__} is no trainer.templates.Policy or Objective; derive it from one"
        raise checked.mistake(path, message)
    params = checked.config.train.trainer.params
    try:
        policy: Objective = build_policy(policy_class, components.called, _build_loss(checked), params)
        check_state(policy, " of the policy")
    except ValueError as error:
        raise checked.mistake(path, str(error)) from error
    policy.to(runtime.device)
    own = own_state(policy, components.called)
    trained = [name for name, value in own.items() if value.requires_grad]
    if trained:
        message = (
            f"{policy_class.__name__} has trainable parameters of its own ({', '.join(trained)}), but "
            "optimizers train components: make them one, or buffers"
        )
        raise checked.mistake(path, message)
    return policy


def _build_trainer(
    checked: CheckedConfig, runtime: Runtime, components: Components, update: Update, policy: Objective | None
) -> Any:
    """Build the trainer with whatever of the framework's arguments its signature names."""
    config = checked.config
    cls: Any = TRAINER_REGISTRY.get(config.train.trainer.type)
    accepted = inspect.signature(cls).parameters
    offered: dict[str, Any] = {
        "models": components.called,
        "optimizers": update.optimizers,
        "device": runtime.device,
        "update": update,
        "policy": policy,
    }
    if "loss" in accepted:
        offered["loss"] = _build_loss(checked)
    params = config.train.trainer.params
    if policy is not None:
        params = {name: value for name, value in params.items() if name in accepted}
    try:
        return instantiate(cls, params, **offered)
    except ValueError as error:
        raise checked.mistake(("train", "trainer"), str(error)) from error


def _non_finite(asked: str, precision: str) -> str:
    """Return what happens to gradients that are not finite."""
    return ("lower" if precision == "fp16" else "stop") if asked == "auto" else asked


def _build_validation(
    checked: CheckedConfig, data: Data, path: BatchPath
) -> tuple[list[Callback], BatchLoader | None]:
    """Return what validates and its samples, or nothing."""
    settings = checked.config.data.validation
    if settings is None or data.held_out is None:
        return [], None
    loader = BatchLoader(data.held_out, batch_size=1, path=path)
    return [Validation(settings, checked.metrics)], loader


def _write_run_folder(checked: CheckedConfig, data: Data, experiment: Experiment, total_steps: int) -> None:
    """Write what describes the run before its next step; a finished run stays as it is."""
    run, config, runtime = checked.run, checked.config, experiment.runtime
    (run / MODELS).mkdir(parents=True, exist_ok=True)
    known = read_run_facts(run)
    known_end = (known.get("iterations"), known.get("total_steps"))
    if known.get("finished") and known_end == (experiment.progress.iteration, total_steps):
        return
    forget_from(run / METRICS, experiment.progress.iteration)
    for file in BESIDE:
        forget_from(run / file, experiment.progress.iteration + (not experiment.saving.unmeasured))
    write_yaml(run / CONFIG, resolved(config))
    for name, path in checked.component_paths.items():
        write_yaml(run / MODELS / f"{name}.yaml", flat_model(path))
    write_json(run / DATASET, experiment.facts)
    if data.norm_stats:
        save_stats(run / STATS, data.norm_stats)
    components = []
    for name, component in experiment.components.items():
        total, trained = count_parameters(component.module)
        optimizer = config.optimizers.get(name)
        components.append(
            {
                "name": name,
                "yaml": config.model.component_config_paths[name],
                "parameters": total,
                "trainable": trained,
                "frozen": trained == 0,
                "optimizer": optimizer[1].type if optimizer else None,
            }
        )
    write_run_facts(
        run,
        {
            **environment_facts(),
            "started": known.get("started") or now(),
            "config_path": str(checked.located.path),
            "name": config.train.project_name,
            "seed": config.run_seed,
            "world_size": runtime.world_size,
            "device": str(runtime.device),
            "precision": runtime.precision,
            "components": components,
            "steps_per_epoch": experiment.batches.steps_per_epoch,
            "epochs": experiment.total_epochs,
            "total_steps": total_steps,
            "samples_per_step": experiment.samples_per_update,
        },
    )


def _identity(config: ExperimentConfig, run: Path, first_step: int) -> RunIdentity:
    """Return how loggers know the run; the same when it is taken up again."""
    identity = read_run_facts(run).get("wandb_id") or uuid.uuid4().hex[:8]
    write_run_facts(run, {"wandb_id": identity})
    name = config.train.project_name
    project = str(config.data.datamodule.params.get("task_name") or name)
    return RunIdentity(run, project, name, resolved(config), identity, first_step)
