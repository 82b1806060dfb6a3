"""Checking an experiment before anything is built: every mistake that the configuration itself shows."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model_constructor import ConfigPath, closest, did_you_mean

from trainer.config.errors import ConfigError
from trainer.config.loader import LocatedConfig
from trainer.config.parameters import FRAMEWORK_ARGUMENTS, Target, receivers
from trainer.config.paths import project_folder
from trainer.config.schemas import ComponentSpec, ExperimentConfig, TrainConfig
from trainer.config.validation import (
    Issues,
    idle_overrides,
    mistake,
    validate_parameters,
    validate_schema,
)
from trainer.engine.effects import check_effects, check_watched, idle_components, idle_settings
from trainer.engine.inputs import (
    check_device,
    check_load_dir,
    check_resume_from,
    check_save_dir,
    check_simulators,
    find_models,
)
from trainer.evaluation.simulated_robot import SimulatedRobot
from trainer.registry import (
    CALLBACK_REGISTRY,
    DATASET_BUILDER_REGISTRY,
    EXPERT_REGISTRY,
    LOGGER_REGISTRY,
    LOSS_BUILDER_REGISTRY,
    METRIC_REGISTRY,
    OPTIMIZER_BUILDER_REGISTRY,
    TRAINER_REGISTRY,
    PluginError,
    Registry,
    load_plugins,
)
from trainer.registry.shipped import shipped_plugins
from trainer.templates import Callback, Logger, Metric

DATAMODULE: ConfigPath = ("data", "datamodule")
_SEVERAL: Mapping[str, Registry[Any]] = {
    "callbacks": CALLBACK_REGISTRY,
    "loggers": LOGGER_REGISTRY,
    "metrics": METRIC_REGISTRY,
}


@dataclass(frozen=True)
class CheckedConfig:
    """An experiment that was checked as far as its files tell; `build_data` comes next.

    Attributes:
        located: the configuration with positions, as it was written.
        issues: the mistakes found so far; those of the data are told together with them.
        run: absolute path of the run folder.
        component_paths: component → absolute path of its model YAML.
        parameters: config path of a component spec → its converted parameters, as far as they are right.
        callbacks: config path → callback of `train.callbacks`.
        others: callbacks that no file names.
        loggers: those of `train.loggers`.
        metrics: name → metric of `train.metrics`.
        warnings: sentences about settings that have no effect.
        robots: config path of a simulator's name → what it says of its robot.
    """

    located: LocatedConfig
    issues: Issues
    run: Path
    component_paths: Mapping[str, Path]
    parameters: Mapping[ConfigPath, dict[str, Any]]
    callbacks: Mapping[ConfigPath, Callback] = field(default_factory=dict)
    others: Sequence[Callback] = ()
    loggers: Sequence[Logger] = ()
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    robots: Mapping[ConfigPath, SimulatedRobot] = field(default_factory=dict)
    as_read: ExperimentConfig | None = None

    @property
    def config(self) -> ExperimentConfig:
        """The configuration, with converted parameters and the batch size of one rank.

        Raises:
            ConfigError: every mistake found, each with its place.
        """
        self.issues.raise_if_any()
        assert self.as_read is not None
        return self.as_read

    def mistake(self, path: ConfigPath, message: str, hint: str | None = None) -> ConfigError:
        """Return the error for one mistake that only shows while the experiment is put together."""
        return mistake(self.located, path, message, hint)


def check(
    located: LocatedConfig, world_size: int = 1, local_rank: int = 0, others: Sequence[Callback] = ()
) -> CheckedConfig:
    """Check a configuration; nothing is built, read or written of what it describes.

    Plugins are imported. Mistakes are kept, so that those of the data can be told with them.

    Args:
        located: the loaded configuration.
        world_size: number of ranks that would train it.
        local_rank: place among the ranks of this machine.
        others: callbacks that no file names, which may measure something.
    """
    issues = Issues(located)
    config = validate_schema(issues)
    warnings = [str(one) if one.hint else f"{one}." for one in located.unread]
    warnings += [] if config is None else idle_overrides(located, config)
    config, parameters = check_components(issues, config)
    component_paths = find_models(issues)
    run = check_save_dir(issues)
    parts = {key: _build_parts(issues, parameters, key) for key in _SEVERAL}
    metrics: dict[str, Metric] = {}
    for path, name, metric in parts["metrics"]:
        metrics[name if name not in metrics else f"{name}_{path[-1]}"] = metric
    callbacks = {path: callback for path, _, callback in parts["callbacks"]}
    robots: Mapping[ConfigPath, SimulatedRobot] = {}
    if config is not None:
        robots = check_simulators(issues, config)
        check_device(issues, config, local_rank)
        check_effects(issues, config)
        check_load_dir(issues, config)
        check_resume_from(issues, config)
        check_watched(issues, config, callbacks, list(metrics), others=others)
        config = _resolve_batch_size(issues, config, world_size)
        warnings += [*idle_components(config), *idle_settings(config)]
    return CheckedConfig(
        located=located,
        issues=issues,
        run=run,
        component_paths=component_paths,
        parameters=parameters,
        callbacks=callbacks,
        others=others,
        loggers=[logger for _, _, logger in parts["loggers"]],
        metrics=metrics,
        warnings=warnings,
        robots=robots,
        as_read=config,
    )


def check_components(
    issues: Issues, config: ExperimentConfig | None
) -> tuple[ExperimentConfig | None, dict[ConfigPath, dict[str, Any]]]:
    """Import the plugins, and check the key and the parameters of every registered component.

    Args:
        issues: takes the mistakes.
        config: the configuration as the schema has it; None where that found mistakes.

    Returns:
        The configuration with converted parameters, and the parameters by the config path of their spec.
    """
    import_builtins()
    are_all_there = _import_plugins(issues)
    parameters: dict[ConfigPath, dict[str, Any]] = {}
    for path, registry, spec in component_specs(issues.located.data):
        given = _check_spec(issues, path, registry, spec, are_all_there)
        if given is not None:
            parameters[path] = given
            config = config and config.with_parameters(path, given)
    return config, parameters


def converted(config: ExperimentConfig) -> ExperimentConfig:
    """Return a configuration of an earlier version, which may hold parameters as they were written."""
    unheard = Issues(LocatedConfig(config.model_dump()))
    for path, registry, spec in component_specs(unheard.located.data):
        params = _check_spec(unheard, path, registry, spec)
        config = config if params is None else config.with_parameters(path, params)
    return config


def import_builtins() -> None:
    """Register the callbacks, loggers, metrics and experts that come with the framework."""
    for name in ("engine.callbacks", "engine.loggers", "engine.metrics", "evaluation.experts"):
        importlib.import_module(f"trainer.{name}")


def _import_plugins(issues: Issues) -> bool:
    """Import the plugins; those of the user's project are found beside its configs.

    Returns:
        Whether all are there: what one of them would have registered is not missed too.
    """
    before = len(issues.found)
    names = issues.located.data.get("plugins") or []
    for index, name in enumerate(names if isinstance(names, list) else []):
        if not isinstance(name, str):
            continue
        try:
            load_plugins([name], project_folder(issues.located.path))
        except PluginError as error:
            issues.add(("plugins", index), error.message, error.hint)
    return len(issues.found) == before


def component_specs(raw: Mapping[str, Any]) -> list[tuple[ConfigPath, Registry[Any], Mapping[str, Any]]]:
    """Return every place where a registry key stands, as far as the raw configuration shows it."""
    found: list[tuple[ConfigPath, Registry[Any]]] = [
        (DATAMODULE, DATASET_BUILDER_REGISTRY),
        (("train", "trainer"), TRAINER_REGISTRY),
        (("train", "loss"), LOSS_BUILDER_REGISTRY),
        (("train", "optimizer"), OPTIMIZER_BUILDER_REGISTRY),
        (("online", "expert"), EXPERT_REGISTRY),
    ]
    for name in mapping_at(raw, "model", "component_optims"):
        found.append((("model", "component_optims", name), OPTIMIZER_BUILDER_REGISTRY))
    several = [
        (("train", key, i), registry, entry)
        for key, registry in _SEVERAL.items()
        for i, entry in enumerate(_entries(raw, key))
    ]
    everything = [*((path, registry, mapping_at(raw, *path)) for path, registry in found), *several]
    return [one for one in everything if isinstance(one[2], Mapping) and isinstance(one[2].get("type"), str)]


def mapping_at(raw: Any, *path: str | int) -> Mapping[str, Any]:
    """Return the mapping at a path of a raw configuration; an empty one where there is none."""
    for key in path:
        raw = raw.get(key) if isinstance(raw, Mapping) else None
    return raw if isinstance(raw, Mapping) else {}


def _entries(raw: Mapping[str, Any], key: str) -> list[Any]:
    """Return a list of the `train` section, its default where the configuration says nothing."""
    entries = mapping_at(raw, "train").get(key)
    if entries is None:
        default: list[ComponentSpec] = TrainConfig.model_fields[key].get_default(call_default_factory=True)
        return [entry.model_dump() for entry in default]
    return entries if isinstance(entries, list) else []


def _check_spec(
    issues: Issues,
    path: ConfigPath,
    registry: Registry[Any],
    spec: Mapping[str, Any],
    are_plugins_there: bool = True,
) -> dict[str, Any] | None:
    """Check the key and the parameters of one spec; return the converted parameters."""
    key = spec["type"]
    if not registry.has(key):
        if are_plugins_there:
            hint = _hint_of_key(key, registry)
            issues.add((*path, "type"), f"no {registry.name} is registered as '{key}'", hint)
        return None
    raw = spec.get("params") or {}
    if not isinstance(raw, Mapping):
        return None
    cls: Any = registry.get(key)
    targets: tuple[Target, ...] = receivers(cls)
    if registry is DATASET_BUILDER_REGISTRY and not hasattr(cls, "parameters"):
        targets = (*targets, _any)  # its `build` takes a mapping, which may hold anything
    # Only where the framework passes arguments of its own are their names taken.
    reserved = () if registry in _SEVERAL.values() else FRAMEWORK_ARGUMENTS
    return validate_parameters(issues, (*path, "params"), raw, targets, reserved)


def _hint_of_key(key: str, registry: Registry[Any]) -> str:
    """Return what to write for a key that nobody registered: the plugin that would, or the nearest key."""
    shipped = shipped_plugins().get(registry.name, {})
    near = key if key in shipped else next(iter(closest(key, sorted({*registry.keys(), *shipped}))), None)
    if near is None:
        return did_you_mean(key, registry.keys(), "registered:", "nothing; is its module under plugins?")
    meant = "" if near == key else f"did you mean '{near}'? "
    if registry.has(near):
        return meant.strip()
    return f"{meant}{'it' if meant else 'this one'} comes with the plugin {shipped[near]}"


def _any(**params: Any) -> None:
    """Take any parameters."""


def _build_parts(
    issues: Issues, parameters: Mapping[ConfigPath, dict[str, Any]], key: str
) -> list[tuple[ConfigPath, str, Any]]:
    """Build what a list of the `train` section names; return path, name and object of each."""
    built = []
    for path in (p for p in parameters if p[:2] == ("train", key)):
        spec = _entries(issues.located.data, key)[int(path[2])]
        try:
            built.append((path, spec["type"], _SEVERAL[key].get(spec["type"])(**parameters[path])))
        except ValueError as error:
            issues.add((*path, "params") if "params" in spec else path, str(error))
    return built


def _resolve_batch_size(issues: Issues, config: ExperimentConfig, world_size: int) -> ExperimentConfig:
    """Return the configuration with the batch size of one rank, whichever of the two sizes it gives."""
    whole, micro_batches = config.data.global_batch_size, config.train.accumulate_grad_batches
    if whole is None:
        return config
    share, rest = divmod(whole, world_size * micro_batches)
    if rest or not share:
        among = [f"{world_size} ranks"] * (world_size > 1)
        among += [f"{micro_batches} batches per update"] * (micro_batches > 1)
        message = f"a global batch of {whole} samples cannot be divided evenly among {' and '.join(among)}"
        issues.add(("data", "global_batch_size"), message)
        share = 1
    data = config.data.model_copy(update={"batch_size": share, "global_batch_size": None})
    return config.model_copy(update={"data": data})
