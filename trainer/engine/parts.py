"""Components, optimizers, policy and trainer, as a checked configuration names them."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer.checkpoint.folder import read_manifest, weights_folder
from trainer.checkpoint.names import MANIFEST
from trainer.config.parameters import own_parameters
from trainer.config.paths import find_input
from trainer.config.validation import Issues
from trainer.deployment.policy_parts import build_loss, build_models, build_policy, load_component, own_state
from trainer.engine.check import CheckedConfig
from trainer.engine.optimizers import build_optimizer
from trainer.engine.update import Update
from trainer.modeling.component import Component, Components, Parallel, check_state
from trainer.modeling.initialize import freeze, init_weights
from trainer.registry import TRAINER_REGISTRY
from trainer.runtime import Runtime
from trainer.templates import Objective
from trainer.utils.import_utils import instantiate
from trainer.utils.log import log
from trainer.utils.seed import kept_random_state, set_global_seed
from trainer.utils.text import what_it_is

_OPTIMIZER = ("step", "zero_grad", "param_groups", "state_dict", "load_state_dict")


def untrained(checked: CheckedConfig, runtime: Runtime) -> tuple[Components, Objective | None]:
    """Return the models with which a training would begin, and their policy; None where no class is named.

    Nothing is read of an earlier run, and nothing is written.

    Raises:
        ConfigError: a component or the policy cannot be built.
    """
    with kept_random_state():
        set_global_seed(checked.config.seed)
        components = build_components(checked, runtime, pretrained=True)
        return components, build_objective(checked, runtime, components)


def build_components(checked: CheckedConfig, runtime: Runtime, pretrained: bool) -> Components:
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


def build_optimizers(
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


def _broken_promise(registry: str, key: str, returned: Any, promised: str) -> str:
    return f"{registry} '{key}' must return {promised} from its build, it returned {what_it_is(returned)}"


def _loss(checked: CheckedConfig) -> nn.Module | None:
    """Build the loss of `train.loss`, or None without one."""
    spec = checked.config.train.loss
    try:
        loss = build_loss(spec)
    except ValueError as error:
        raise checked.mistake(("train", "loss", "params"), str(error)) from error
    if spec is not None and not callable(loss):
        raise checked.mistake(("train", "loss"), _broken_promise("loss_builder", spec.type, loss, "a module"))
    return loss


def build_objective(checked: CheckedConfig, runtime: Runtime, components: Components) -> Objective | None:
    """Build the policy that the trainer's class names, if it names one."""
    policy = policy_over(checked, components.called)
    if policy is None:
        return None
    policy.to(runtime.device)
    own = own_state(policy, components.called)
    trained = [name for name, value in own.items() if value.requires_grad]
    if trained:
        message = (
            f"{type(policy).__name__} has trainable parameters of its own ({', '.join(trained)}), but "
            "optimizers train components: make them one, or buffers"
        )
        raise checked.mistake(("train", "trainer"), message)
    return policy


def policy_over(checked: CheckedConfig, models: nn.ModuleDict) -> Objective | None:
    """Return the policy that the trainer's class names, made of given components; None if it names none.

    Raises:
        ConfigError: components, loss or parameters are not what the policy takes.
    """
    policy_class = _policy_class(checked)
    if policy_class is None:
        return None
    path = ("train", "trainer")
    if not issubclass(policy_class, Objective):
        message = f"{policy_class.__name__} is no trainer.templates.Policy or Objective; derive it from one"
        raise checked.mistake(path, message)
    loss = _loss(checked)
    try:
        policy: Objective = build_policy(policy_class, models, loss, checked.config.train.trainer.params)
        check_state(policy, " of the policy")
    except ValueError as error:
        raise checked.mistake(path, str(error)) from error
    return policy


def build_trainer(
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
        offered["loss"] = _loss(checked)
    params = config.train.trainer.params
    if policy is not None:
        params = own_parameters(cls, params)
    try:
        return instantiate(cls, params, **offered)
    except ValueError as error:
        raise checked.mistake(("train", "trainer"), str(error)) from error
