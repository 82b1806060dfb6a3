"""Everything that can be found wrong before training starts, found at once."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model_constructor.errors import ConfigError as ModelConfigError
from model_constructor.util.suggest import closest

from trainer.config.errors import ConfigError, ConfigValidationIssue, ParameterError
from trainer.config.loader import ConfigPath, LocatedConfig
from trainer.config.paths import find_input, output_path, project_folder
from trainer.config.schemas import ComponentSpec, ExperimentConfig, TrainConfig
from trainer.config.validation import Issues, validate_parameters, validate_schema
from trainer.data.augmentation import Augmentation
from trainer.data.errors import DatasetError
from trainer.data.normalization import Normalizer
from trainer.data.split import split_episodes
from trainer.engine.effects import check_effects, idle_components, idle_settings
from trainer.registry import (
    CALLBACK_REGISTRY,
    DATASET_BUILDER_REGISTRY,
    LOGGER_REGISTRY,
    LOSS_BUILDER_REGISTRY,
    METRIC_REGISTRY,
    OPTIMIZER_BUILDER_REGISTRY,
    TRAINER_REGISTRY,
    PluginError,
    Registry,
    load_plugins,
)
from trainer.runtime import select_device
from trainer.templates import Callback, Logger, Metric

RESERVED_ARGUMENTS = frozenset(
    {"models", "components", "optimizers", "loss", "device", "policy", "update", "opt_params", "params"}
)
_SEVERAL: Mapping[str, Registry[Any]] = {
    "callbacks": CALLBACK_REGISTRY,
    "loggers": LOGGER_REGISTRY,
    "metrics": METRIC_REGISTRY,
}
Check = Callable[[Issues, ExperimentConfig], None]


@dataclass(frozen=True)
class Plan:
    """A checked experiment, ready to be assembled.

    Attributes:
        config: the validated configuration.
        located: the same with positions, as it was written.
        run: absolute path of the run folder.
        component_paths: component → absolute path of its model YAML.
        params: config path of a component spec → its converted parameters.
        dataset: the built dataset.
        norm_stats: its statistics, or None.
        normalizer: what they and `data.normalization` amount to.
        augmentation: what `data.augmentation` asks for, or None.
        held_out: the samples of the validation episodes, or None.
        callbacks: those of `train.callbacks`, built.
        loggers: those of `train.loggers`, built.
        metrics: name → metric of `train.metrics`, built.
        warnings: sentences about settings that have no effect.
    """

    config: ExperimentConfig
    located: LocatedConfig
    run: Path
    component_paths: Mapping[str, Path]
    params: Mapping[ConfigPath, dict[str, Any]]
    dataset: Any
    norm_stats: Mapping[str, Any] | None
    normalizer: Normalizer
    augmentation: Augmentation | None = None
    held_out: Any = None
    callbacks: Sequence[Callback] = ()
    loggers: Sequence[Logger] = ()
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass
class _Spec:
    """One place of the configuration where something is picked from a registry."""

    path: ConfigPath
    registry: Registry[Any]
    raw: Mapping[str, Any]


def preflight(
    located: LocatedConfig,
    *,
    extra_checks: Sequence[Check] = (),
    local_rank: int = 0,
    distributed: bool = False,
) -> Plan:
    """Check a configuration as far as is possible without training, and build its dataset.

    Args:
        located: the loaded configuration.
        extra_checks: further checks by rooms that this one does not know.
        local_rank: handed to the dataset factory.
        distributed: handed to the dataset factory.

    Raises:
        trainer.config.errors.ConfigError: every mistake found, each with its place.
    """
    issues = Issues(located)
    config = validate_schema(issues)
    import_builtins()
    _import_plugins(issues)
    params: dict[ConfigPath, dict[str, Any]] = {}
    for spec in _specs(located.data):
        checked = _check_spec(issues, spec)
        if checked is not None:
            params[spec.path] = checked
    component_paths = _check_components(issues)
    run = _check_save_dir(issues)
    for check in extra_checks if config else ():
        assert config is not None
        check(issues, config)
    built = _build_dataset(issues, params, run, local_rank, distributed)
    if config is not None:
        _check_device(issues, config, local_rank)
        check_effects(issues, config)
        _check_load_dir(issues, config)
    parts = {key: _build_parts(issues, params, key) for key in ("callbacks", "loggers", "metrics")}
    train_data, held_out = _split(issues, config, built.get("dataset"))
    stats = built.get("norm_stats")
    normalizer = _build_normalizer(issues, config, stats)
    augmentation = _build_augmentation(issues, config, train_data)
    issues.raise_if_any()
    assert config is not None
    assert run is not None
    assert normalizer is not None
    warnings = [*idle_components(config), *idle_settings(config, train_data)]
    return Plan(
        config=config,
        located=located,
        run=run,
        component_paths=component_paths,
        params=params,
        dataset=train_data,
        norm_stats=stats,
        normalizer=normalizer,
        augmentation=augmentation,
        held_out=held_out,
        callbacks=list(parts["callbacks"].values()),
        loggers=list(parts["loggers"].values()),
        metrics=parts["metrics"],
        warnings=warnings,
    )


def refusal(located: LocatedConfig, path: ConfigPath, message: str, hint: str | None = None) -> ConfigError:
    """Return the error for one mistake that only shows while the experiment is put together."""
    issues = Issues(located)
    issues.add(path, message, hint)
    return ConfigError(issues.found)


def _at(raw: Any, *path: str | int) -> Any:
    """Return what stands at a path of the raw configuration, or None."""
    for key in path:
        if isinstance(key, int):
            raw = raw[key] if isinstance(raw, list) and key < len(raw) else None
        else:
            raw = raw.get(key) if isinstance(raw, Mapping) else None
    return raw


def _mapping(raw: Any, *path: str | int) -> Mapping[str, Any]:
    value = _at(raw, *path)
    return value if isinstance(value, Mapping) else {}


def import_builtins() -> None:
    """Register the callbacks, loggers and metrics that come with the framework."""
    for name in ("callbacks", "loggers", "metrics"):
        importlib.import_module(f"trainer.engine.{name}")


def _import_plugins(issues: Issues) -> None:
    """Import the plugins; those of the user's project are found beside its configs."""
    names = issues.located.data.get("plugins") or []
    for index, name in enumerate(names if isinstance(names, list) else []):
        if not isinstance(name, str):
            continue
        try:
            load_plugins([name], project_folder(issues.located.path))
        except PluginError as error:
            issues.add(("plugins", index), str(error))


def _specs(raw: Mapping[str, Any]) -> list[_Spec]:
    """Return every place where a registry key stands, as far as the raw configuration shows it."""
    found: list[tuple[ConfigPath, Registry[Any]]] = [
        (("data", "datamodule"), DATASET_BUILDER_REGISTRY),
        (("train", "trainer"), TRAINER_REGISTRY),
        (("train", "loss"), LOSS_BUILDER_REGISTRY),
        (("train", "optimizer"), OPTIMIZER_BUILDER_REGISTRY),
    ]
    for name in _mapping(raw, "model", "component_optims"):
        found.append((("model", "component_optims", name), OPTIMIZER_BUILDER_REGISTRY))
    listed = [
        (("train", key, i), registry, entry)
        for key, registry in _SEVERAL.items()
        for i, entry in enumerate(_entries(raw, key))
    ]
    specs = []
    for path, registry, value in [*((p, r, _mapping(raw, *p)) for p, r in found), *listed]:
        if isinstance(value, Mapping) and isinstance(value.get("type"), str):
            specs.append(_Spec(path, registry, value))
    return specs


def _entries(raw: Mapping[str, Any], key: str) -> list[Any]:
    """Return a list of the `train` section, its default where the configuration says nothing."""
    entries = _at(raw, "train", key)
    if entries is None:
        default: list[ComponentSpec] = TrainConfig.model_fields[key].get_default(call_default_factory=True)
        return [entry.model_dump() for entry in default]
    return entries if isinstance(entries, list) else []


def _check_spec(issues: Issues, spec: _Spec) -> dict[str, Any] | None:
    """Check the key and the parameters of one spec; return the converted parameters."""
    key = spec.raw["type"]
    if not spec.registry.has(key):
        near = closest(key, spec.registry.keys())
        known = ", ".join(spec.registry.keys()) or "nothing; is its module under plugins?"
        hint = f"did you mean '{near[0]}'?" if near else f"registered: {known}"
        issues.add((*spec.path, "type"), f"no {spec.registry.name} is registered as '{key}'", hint)
        return None
    raw = spec.raw.get("params") or {}
    if not isinstance(raw, Mapping):
        return None
    cls: Any = spec.registry.get(key)
    target = getattr(cls, "parameters", cls)
    # Only where the framework passes arguments of its own are their names taken.
    reserved = () if spec.registry in _SEVERAL.values() else RESERVED_ARGUMENTS
    return validate_parameters(issues, (*spec.path, "params"), raw, target, reserved)


def _check_components(issues: Issues) -> dict[str, Path]:
    """Find the model YAMLs and compile each; nothing is instantiated."""
    from model_constructor import compile_ir

    paths: dict[str, Path] = {}
    for name, value in _mapping(issues.located.data, "model", "component_config_paths").items():
        here: ConfigPath = ("model", "component_config_paths", name)
        if not isinstance(value, str):
            continue
        folders = issues.located.search_paths(here)
        found = find_input(value, folders)
        if found is None or not found.is_file():
            looked = " and ".join(str(f) for f in folders)
            issues.add(here, f"there is no component YAML {value}", f"looked in {looked}")
            continue
        paths[name] = found.resolve()
        try:
            compile_ir(found)
        except ModelConfigError as error:
            _note_model_errors(issues, here, error)
    return paths


def _note_model_errors(issues: Issues, here: ConfigPath, error: ModelConfigError) -> None:
    """Take over the mistakes in a model YAML with their own places."""
    reference = issues.located.locate(here)
    for one in getattr(error, "errors", None) or [error]:
        hint = f"did you mean '{one.suggestions[0]}'?" if one.suggestions else None
        path = ".".join(str(k) for k in here)
        origin = (reference.format(), one.location.file) if reference and one.location else ()
        issues.found.append(ConfigValidationIssue(path, one.message, hint, one.location or reference, origin))


def _check_save_dir(issues: Issues) -> Path | None:
    value = _mapping(issues.located.data, "train").get("save_dir")
    if not isinstance(value, str) or not value:
        return None
    run = output_path(value, issues.located.path)
    existing = run
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        issues.add(("train", "save_dir"), f"{run} cannot be made, because {existing} is no folder")
    elif not os.access(existing, os.W_OK | os.X_OK) or not _can_create(existing):
        issues.add(("train", "save_dir"), f"{run} cannot be written, because {existing} is not writable")
    return run


def _can_create(folder: Path) -> bool:
    """Try it: permissions do not tell of read-only file systems, and root ignores them."""
    probe = folder / f".writable.{os.getpid()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True


def _build_dataset(
    issues: Issues,
    params: Mapping[ConfigPath, dict[str, Any]],
    run: Path | None,
    local_rank: int,
    distributed: bool,
) -> dict[str, Any]:
    path: ConfigPath = ("data", "datamodule")
    if path not in params:
        return {}
    factory: Any = DATASET_BUILDER_REGISTRY.get(_mapping(issues.located.data, *map(str, path))["type"])()
    opt_params = {
        "local_rank": local_rank,
        "dist_enabled": distributed,
        "save_dir": str(run) if run else None,
        "search_paths": issues.located.search_paths((*path, "params", "root")),
    }
    try:
        built = factory.build(opt_params, params=params[path])
    except ParameterError as error:
        below = tuple(int(k) if k.isdigit() else k for k in error.param.split(".")) if error.param else ()
        issues.add((*path, "params", *below), error.message, error.hint)
        return {}
    except DatasetError as error:
        issues.add(path, str(error))
        return {}
    return built if isinstance(built, dict) else {"dataset": built}


def _build_parts(issues: Issues, params: Mapping[ConfigPath, dict[str, Any]], key: str) -> dict[str, Any]:
    """Build what a list of the `train` section names; a name that comes again gets a number."""
    built: dict[str, Any] = {}
    for path in (p for p in params if p[:2] == ("train", key)):
        spec = _entries(issues.located.data, key)[int(path[2])]
        name = spec["type"]
        try:
            part: Any = _SEVERAL[key].get(name)
            built[name if name not in built else f"{name}_{path[-1]}"] = part(**params[path])
        except ValueError as error:
            issues.add((*path, "params") if "params" in spec else path, str(error))
    return built


def _split(issues: Issues, config: ExperimentConfig | None, dataset: Any) -> tuple[Any, Any]:
    """Return the samples to train on and those to validate on."""
    validation = config.data.validation if config is not None else None
    if config is None or dataset is None or validation is None:
        return dataset, None
    try:
        return split_episodes(
            dataset, config.run_seed, fraction=validation.fraction, episodes=validation.episodes
        )
    except DatasetError as error:
        issues.add(("data", "validation"), str(error))
        return dataset, None


def _build_normalizer(
    issues: Issues, config: ExperimentConfig | None, stats: Mapping[str, Any] | None
) -> Normalizer | None:
    modes: Any = config.data.normalization if config is not None else "none"
    if not stats:
        return Normalizer({}, "none")
    try:
        return Normalizer(stats, modes)
    except ValueError as error:
        issues.add(("data", "normalization"), str(error))
        return None


def _build_augmentation(issues: Issues, config: ExperimentConfig | None, dataset: Any) -> Augmentation | None:
    if config is None or config.data.augmentation is None or dataset is None:
        return None
    augmentation = Augmentation(config.data.augmentation, getattr(dataset, "image_keys", ()))
    for setting, sentence in augmentation.without_effect(dataset_facts(dataset).get("windows", {})):
        issues.add(("data", "augmentation", *(setting.split(".", 1) if setting else ())), sentence)
    return augmentation


def dataset_facts(dataset: Any) -> dict[str, Any]:
    """Return what a dataset says of itself; one of the user's own may say nothing."""
    facts: dict[str, Any] = dataset.facts() if hasattr(dataset, "facts") else {}
    return facts


def _check_device(issues: Issues, config: ExperimentConfig, local_rank: int) -> None:
    try:
        select_device(config.device, local_rank)
    except ValueError as error:
        issues.add(("device",), str(error))


def _check_load_dir(issues: Issues, config: ExperimentConfig) -> None:
    if config.train.load_dir is None:
        return
    folder = find_input(config.train.load_dir, issues.located.search_paths(("train", "load_dir")))
    if folder is None or not folder.is_dir():
        issues.add(("train", "load_dir"), f"there is no folder {config.train.load_dir}")
        return
    for name in config.model.component_config_paths:
        if not (folder / f"{name}.pt").is_file():
            issues.add(("train", "load_dir"), f"{folder} has no weights {name}.pt for component '{name}'")
