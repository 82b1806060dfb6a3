"""Putting an experiment together: components, optimizers, trainer, batches, and the run that was before."""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from trainer.config.errors import ConfigError
from trainer.config.loader import ConfigPath
from trainer.config.paths import find_input, output_path
from trainer.config.schemas import ExperimentConfig
from trainer.config.validation import Issues
from trainer.data.loader import BatchLoader
from trainer.data.stats_file import save_stats
from trainer.engine.checkpoint import LATEST, CheckpointWriter, find_checkpoint
from trainer.engine.deployment import CONFIG, DATASET, MODELS, STATS, build_loss, build_models, load_component
from trainer.engine.experiment import Experiment
from trainer.engine.preflight import Plan, dataset_facts
from trainer.engine.run_folder import environment_facts, write_run_facts, write_yaml
from trainer.engine.step import StepSettings
from trainer.engine.tracking import METRICS, Tracker, start_wandb
from trainer.modeling.prepare import count_parameters, freeze, init_weights, is_trainable, unwrapped, wrap
from trainer.registry import OPTIMIZER_BUILDER_REGISTRY, TRAINER_REGISTRY
from trainer.runtime import Runtime
from trainer.utils.files import write_json
from trainer.utils.seed import set_global_seed

# Settings that a resumed run may change without becoming another run.
MAY_CHANGE = frozenset(
    {
        "device",
        "train.epoch",
        "train.save_every",
        "train.log_every_n_steps",
        "train.evaluation",
        "train.checkpoint",
        "data.num_workers",
        "data.pin_memory",
        "data.persistent_workers",
        "data.prefetch_factor",
        "data.recording",
    }
)


def assemble(plan: Plan, runtime: Runtime) -> Experiment:
    """Build an experiment from a checked plan.

    One seed on all ranks while models are built, then `seed + rank` for dropout and whatever else draws from
    the global generators. A run that `save_dir` already holds is taken up where it stopped.

    Raises:
        ConfigError: the run in `save_dir` was made with other settings.
    """
    config, run = plan.config, plan.run
    resumed = _checkpoint_to_resume(plan)
    loader = _build_loader(plan, runtime)
    set_global_seed(config.seed, config.deterministic)
    models = _build_models(plan, runtime)
    total_steps = config.train.epoch * loader.steps_per_epoch
    optimizers = _build_optimizers(plan, models, total_steps)
    trainer = _build_trainer(plan, runtime, models, optimizers)
    set_global_seed(config.run_seed + runtime.rank, config.deterministic)
    if runtime.is_main:
        _write_run_folder(plan, runtime, models, loader, total_steps)
    runtime.barrier()
    wandb_run = _start_wandb(config, run) if runtime.is_main else None
    facts = dataset_facts(plan.dataset)
    experiment = Experiment(
        config=config,
        runtime=runtime,
        run=run,
        trainer=trainer,
        models=models,
        optimizers=optimizers,
        loader=loader,
        normalizer=plan.normalizer,
        augmentation=plan.augmentation,
        windows=facts.get("windows", {}),
        stats=plan.norm_stats,
        tracker=Tracker(run, runtime, config.train.log_every_n_steps, wandb_run),
        writer=CheckpointWriter(run),
        batch_metrics=getattr(plan.dataset, "batch_metrics", None),
    )
    if resumed is not None:
        experiment.restore(resumed)
    elif runtime.is_main:
        (run / METRICS).unlink(missing_ok=True)
    return experiment


def _build_loader(plan: Plan, runtime: Runtime) -> BatchLoader:
    data = plan.config.data
    try:
        return BatchLoader(
            plan.dataset,
            batch_size=data.batch_size,
            rank=runtime.rank,
            world_size=runtime.world_size,
            seed=plan.config.run_seed,
            num_workers=data.num_workers,
            pin_memory=data.pin_memory,
            persistent_workers=data.persistent_workers,
            prefetch_factor=data.prefetch_factor,
            normalizer=plan.normalizer,
            device=runtime.device,
        )
    except ValueError as error:
        raise _refusal(plan, ("data", "batch_size"), str(error)) from error


def _refusal(plan: Plan, path: ConfigPath, message: str, hint: str | None = None) -> ConfigError:
    """Return the error for one mistake that only shows while the experiment is put together."""
    issues = Issues(plan.located)
    issues.add(path, message, hint)
    return ConfigError(issues.found)


def _build_models(plan: Plan, runtime: Runtime) -> nn.ModuleDict:
    """Build, load or initialise, freeze, move and wrap each component, in the order of the configuration."""
    config = plan.config
    built = build_models(plan.component_paths)
    source = _load_folder(plan)
    models = {}
    for name, module in built.items():
        flags = config.model.component_build_args.get(name)
        if source is not None:
            load_component(module, source / f"{name}.pt")
        elif flags is not None and flags.init:
            init_weights(module)
        if flags is not None and flags.freeze:
            freeze(module)
        models[name] = wrap(module, runtime, config.model.find_unused_parameters)
    return nn.ModuleDict(models)


def _load_folder(plan: Plan) -> Path | None:
    value = plan.config.train.load_dir
    return find_input(value, plan.located.search_paths(("train", "load_dir"))) if value is not None else None


def _build_optimizers(
    plan: Plan, models: nn.ModuleDict, total_steps: int
) -> dict[str, torch.optim.Optimizer]:
    """Build the optimizer of every component that has one and something to train."""
    optimizers = {}
    for name, spec in plan.config.model.component_optims.items():
        if not is_trainable(models[name]):
            continue
        path: ConfigPath = ("model", "component_optims", name)
        builder: Any = OPTIMIZER_BUILDER_REGISTRY.get(spec.type)
        try:
            factory = builder(**plan.params[path])
            takes_steps = "total_steps" in inspect.signature(factory.build).parameters
            extra = {"total_steps": total_steps} if takes_steps else {}
            optimizers[name] = factory.build(list(models[name].parameters()), **extra)
        except ValueError as error:
            raise _refusal(plan, (*path, "params"), str(error)) from error
    return optimizers


def _build_trainer(
    plan: Plan, runtime: Runtime, models: nn.ModuleDict, optimizers: dict[str, torch.optim.Optimizer]
) -> Any:
    """Build the trainer with whatever of the framework's arguments its signature names."""
    config = plan.config
    cls: Any = TRAINER_REGISTRY.get(config.train.trainer.type)
    settings = StepSettings(
        seed=config.run_seed,
        rank=runtime.rank,
        world_size=runtime.world_size,
        gradient_clip_val=config.train.gradient_clip_val,
        ema_decay=config.train.ema.decay if config.train.ema.enabled else None,
    )
    offered = {
        "models": models,
        "optimizers": optimizers,
        "loss": build_loss(config.train.loss),
        "device": runtime.device,
        "settings": settings,
    }
    accepted = inspect.signature(cls).parameters
    arguments = {name: value for name, value in offered.items() if name in accepted}
    params = plan.params.get(("train", "trainer"), {})
    try:
        return cls(**arguments, **params)
    except ValueError as error:
        raise _refusal(plan, ("train", "trainer"), str(error)) from error


def _checkpoint_to_resume(plan: Plan) -> Path | None:
    """Return the checkpoint to take up, after making sure that it belongs to the same experiment."""
    asked = plan.config.train.checkpoint.resume_from
    if asked is None:
        return None
    if asked != "auto":
        return find_checkpoint(output_path(asked, plan.located.path))
    if not (plan.run / LATEST).is_file():
        return None
    before = yaml.safe_load((plan.run / CONFIG).read_text(encoding="utf-8"))
    changed = sorted(_differences(before, _resolved(plan.config)))
    if changed:
        message = f"{plan.run} holds a run with other settings ({', '.join(changed)})"
        hint = "choose another save_dir, set the old values, or set train.checkpoint.resume_from to null"
        raise _refusal(plan, ("train", "save_dir"), message, hint)
    return find_checkpoint(plan.run)


def _differences(before: Any, after: Any, path: str = "") -> set[str]:
    """Return the dotted paths whose values differ and that matter for the numbers of a run."""
    if path in MAY_CHANGE or before == after:
        return set()
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [*before, *(k for k in after if k not in before)]
        return set().union(
            *(_differences(before.get(k), after.get(k), f"{path}.{k}" if path else str(k)) for k in keys)
        )
    return {path}


def _resolved(config: ExperimentConfig) -> dict[str, Any]:
    """Return the configuration with every default filled in, as plain YAML values."""
    resolved: dict[str, Any] = config.model_dump(mode="json")
    return resolved


def _write_run_folder(
    plan: Plan, runtime: Runtime, models: nn.ModuleDict, loader: BatchLoader, total_steps: int
) -> None:
    """Write what describes the run before its first step."""
    run, config = plan.run, plan.config
    (run / MODELS).mkdir(parents=True, exist_ok=True)
    if config.train.checkpoint.resume_from is None and (run / LATEST).exists():
        for old in [run / LATEST, *run.glob("epoch_*"), *run.glob("evaluations*")]:
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    write_yaml(run / CONFIG, _resolved(config))
    for name, path in plan.component_paths.items():
        write_yaml(run / MODELS / f"{name}.yaml", _flat_model(path))
    write_json(run / DATASET, dataset_facts(plan.dataset))
    if plan.norm_stats:
        save_stats(run / STATS, plan.norm_stats)
    components = []
    for name, module in unwrapped(models):
        total, trained = count_parameters(module)
        optimizer = config.model.component_optims.get(name)
        components.append(
            {
                "name": name,
                "yaml": config.model.component_config_paths[name],
                "parameters": total,
                "trainable": trained,
                "frozen": trained == 0,
                "optimizer": optimizer.type if optimizer else None,
            }
        )
    write_run_facts(
        run,
        {
            **environment_facts(),
            "config_path": str(plan.located.path),
            "name": config.train.project_name,
            "seed": config.run_seed,
            "world_size": runtime.world_size,
            "device": str(runtime.device),
            "precision": runtime.precision,
            "components": components,
            "steps_per_epoch": loader.steps_per_epoch,
            "epochs": config.train.epoch,
            "total_steps": total_steps,
            "samples_per_step": config.data.batch_size * runtime.world_size,
        },
    )


def _flat_model(path: Path) -> dict[str, Any]:
    """Return a model YAML that needs no other file."""
    from model_constructor import resolve_config

    flat: dict[str, Any] = resolve_config(path).data
    return flat


def _start_wandb(config: ExperimentConfig, run: Path) -> Any:
    project = config.data.datamodule.params.get("task_name") or config.train.project_name
    return start_wandb(str(project), config.train.project_name, _resolved(config), run)
