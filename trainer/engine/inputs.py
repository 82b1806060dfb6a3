"""The files, device and simulator that an experiment names: whether they are there and can be used."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from model_constructor import ConfigError as ModelConfigError
from model_constructor import ConfigPath, compile_ir, files_like, refuse_unread_params

from trainer.checkpoint.folder import CheckpointError, weights_folder
from trainer.config.paths import find_input, output_path, path_mistake
from trainer.config.schemas import ExperimentConfig
from trainer.config.validation import Issues
from trainer.data.columns import from_facts, robot_shapes
from trainer.deployment.robot_policy import robot_facts
from trainer.evaluation.demonstrations import ScriptedExpert
from trainer.evaluation.simulated_robot import SimulatedRobot, check_features
from trainer.evaluation.simulators import make_simulator
from trainer.runtime import select_device
from trainer.utils.errors import UsageError


def find_models(issues: Issues) -> dict[str, Path]:
    """Find the model YAMLs and compile each; nothing is instantiated."""
    paths: dict[str, Path] = {}
    model = issues.located.data.get("model")
    named = model.get("component_config_paths") if isinstance(model, dict) else None
    for name, value in named.items() if isinstance(named, dict) else ():
        here: ConfigPath = ("model", "component_config_paths", name)
        if isinstance(value, str) and not _has_path_mistake(issues, here, value):
            found = _find_model(issues, here, value)
            if found is not None:
                paths[name] = found.resolve()
    return paths


def _find_model(issues: Issues, here: ConfigPath, value: str) -> Path | None:
    folders = issues.located.search_paths(here)
    found = find_input(value, folders)
    if found is None or not found.is_file():
        looked = " and ".join(str(f) for f in folders)
        near = next((name for folder in folders for name in files_like(folder / value)), None)
        meant = "" if near is None else f"did you mean {Path(value).with_name(near)}? "
        issues.add(here, f"there is no component YAML {value}", f"{meant}looked in {looked}")
        return None
    try:
        compile_ir(found)
        refuse_unread_params(found)
    except ModelConfigError as error:
        _note_model_errors(issues, here, error)
    return found


def _note_model_errors(issues: Issues, here: ConfigPath, error: ModelConfigError) -> None:
    """Take over the mistakes in a model YAML with their own places."""
    for one in error.errors:
        hint = f"did you mean '{one.suggestions[0]}'?" if one.suggestions else None
        issues.add_in_model(here, one.message, one.location, hint, one.include_stack)


def check_save_dir(issues: Issues) -> Path:
    """Return the run folder; whether it can be written is tried, but nothing of it is made."""
    here: ConfigPath = ("train", "save_dir")
    train = issues.located.data.get("train")
    value = train.get("save_dir") if isinstance(train, dict) else None
    if not isinstance(value, str) or not value or _has_path_mistake(issues, here, value):
        return Path()
    run = output_path(value, issues.located.path)
    existing = run
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        issues.add(here, f"{run} cannot be made, because {existing} is no folder")
    elif not os.access(existing, os.W_OK | os.X_OK) or not _can_create(existing):
        issues.add(here, f"{run} cannot be written, because {existing} is not writable")
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


def check_load_dir(issues: Issues, config: ExperimentConfig) -> None:
    """The folder of `train.load_dir` has weights for every component."""
    here: ConfigPath = ("train", "load_dir")
    value = config.train.load_dir
    if value is None or _has_path_mistake(issues, here, value):
        return
    folder = find_input(value, issues.located.search_paths(here))
    if folder is None:
        issues.add(here, f"there is no folder {value}")
        return
    try:
        folder = weights_folder(folder, config.model.component_config_paths)
    except CheckpointError as error:
        issues.add(here, str(error))
        return
    for name in config.model.component_config_paths:
        weights = find_input(f"{name}.pt", [folder])
        if weights is None or not weights.is_file():
            issues.add(here, f"{folder} has no weights {name}.pt for component '{name}'")


def check_resume_from(issues: Issues, config: ExperimentConfig) -> None:
    """The path of `train.checkpoint.resume_from` can be one."""
    value = config.train.checkpoint.resume_from
    if value is not None:
        _has_path_mistake(issues, ("train", "checkpoint", "resume_from"), value)


def check_device(issues: Issues, config: ExperimentConfig, local_rank: int) -> None:
    """The device is there."""
    try:
        select_device(config.device, local_rank)
    except ValueError as error:
        issues.add(("device",), str(error))


def check_simulators(issues: Issues, config: ExperimentConfig) -> dict[ConfigPath, SimulatedRobot]:
    """The simulators that are named are there; return what each says of its robot, by where it is named."""
    robots: dict[ConfigPath, SimulatedRobot] = {}
    named: dict[ConfigPath, str | None] = {}
    if config.train.evaluation is not None:
        named["train", "evaluation", "env"] = config.train.evaluation.env
    if config.online is not None and config.online.workers.count > 0:
        named["online", "workers", "env"] = config.online.workers.env
    for here, env in named.items():
        if env is None:
            env = config.collecting_env
            if env is None:
                message = "no simulator is named, here or by train.evaluation or data.recording"
                issues.add(here, message, "give it, or count: 0 where robots of your own collect")
                continue
        try:
            with contextlib.closing(make_simulator(env)) as simulator:
                robots[here] = SimulatedRobot.of(simulator, env)
                scripted = isinstance(simulator, ScriptedExpert)
        except UsageError as error:
            issues.add(here, str(error))
            continue
        expert = None if config.online is None else config.online.expert
        if here[0] == "online" and not scripted and expert is not None and expert.type == "scripted":
            issues.add(("online", "expert", "type"), f"{env} has no scripted expert")
    return robots


def _has_path_mistake(issues: Issues, here: ConfigPath, value: str) -> bool:
    message = path_mistake(value)
    if message is not None:
        issues.add(here, message)
    return message is not None


def check_same_robot(
    issues: Issues,
    config: ExperimentConfig,
    robots: Mapping[ConfigPath, SimulatedRobot],
    facts: Mapping[str, Any],
    read: Iterable[str],
) -> None:
    """Note where the robot of a simulator has other features or another rate than the data.

    Args:
        issues: where it is noted.
        config: the configuration.
        robots: those of the simulators that can be used, by where they are named.
        facts: what the dataset says of itself; nothing is compared that it does not say.
        read: names of the features to compare: the action, and observations that the policy reads.
    """
    columns = from_facts(robot_facts(facts)) or {}
    shapes = robot_shapes({name: columns[name] for name in read if name in columns})
    for here, robot in robots.items():
        try:
            check_features(shapes, robot, facts.get("fps"))
        except UsageError as error:
            issues.add(here, str(error))
