"""What a policy is put together from, in training and on the robot: components, loss, weights, own state."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from model_constructor import without_pretrained_weights
from torch import Tensor, nn

from trainer.checkpoint.folder import CheckpointError, check_fits, load_tensors
from trainer.config.parameters import FRAMEWORK_ARGUMENTS, convert_parameters, own_parameters, receivers
from trainer.config.schemas import ComponentSpec
from trainer.modeling.factories import PolicyConstructorModelFactory
from trainer.registry import LOSS_BUILDER_REGISTRY
from trainer.templates import Objective

Built = TypeVar("Built", bound=Objective)
Weights = Mapping[str, Mapping[str, Tensor]]
OWN = ""
"""Stands among components for the policy itself: the state that it has beside them."""


def build_models(paths: Mapping[str, Path], pretrained: bool = True) -> nn.ModuleDict:
    """Build the components of a policy, in the order of `paths`.

    Args:
        paths: component → model YAML.
        pretrained: read the weights of others that the YAMLs name; in vain where all weights are loaded next.
    """
    if not paths:
        return nn.ModuleDict()
    with contextlib.nullcontext() if pretrained else without_pretrained_weights():
        built = PolicyConstructorModelFactory().build(paths)
    assert isinstance(built, nn.ModuleDict)
    return built


def own_state(policy: Objective, models: nn.ModuleDict) -> dict[str, Tensor]:
    """Return the live parameters and buffers that a policy, its loss included, has beside its components."""
    of_components = {id(t) for t in (*models.parameters(), *models.buffers())}
    return {k: v for k, v in policy.state_dict(keep_vars=True).items() if id(v) not in of_components}


def load_own_state(policy: Objective, models: nn.ModuleDict, state: Mapping[str, Tensor]) -> None:
    """Take up what `own_state` returned.

    Raises:
        CheckpointError: the policy has other parameters and buffers of its own.
    """
    own = own_state(policy, models)
    if own.keys() != state.keys() or any(own[k].shape != state[k].shape for k in own):
        raise CheckpointError(
            f"the policy's own state is {', '.join(sorted(own)) or 'nothing'}, but the checkpoint has "
            f"{', '.join(sorted(state)) or 'nothing'}, or other shapes"
        )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(state[name])


def build_policy(
    policy_class: type[Built], components: nn.ModuleDict, loss: nn.Module | None, params: Mapping[str, Any]
) -> Built:
    """Return a policy or an objective.

    Args:
        policy_class: its constructor takes the components, the loss if it names it, and parameters.
        components: what it calls.
        loss: of `train.loss`.
        params: of `train.trainer`, converted; those of a trainer are among them.

    Raises:
        ValueError: a parameter cannot be used, or there is a loss and the constructor takes none.
    """
    own = own_parameters(policy_class, params)
    if "loss" in inspect.signature(policy_class).parameters:
        own["loss"] = loss
    elif loss is not None:
        raise ValueError(f"{policy_class.__name__} takes no loss, so train.loss would have no effect")
    return policy_class(components, **own)


def build_loss(spec: ComponentSpec | None) -> nn.Module | None:
    """Build the loss module of a `train.loss` section, or None without one."""
    if spec is None:
        return None
    factory: Any = LOSS_BUILDER_REGISTRY.get(spec.type)
    loss: nn.Module = factory(**converted(factory, spec.model_dump())).build()
    return loss


def converted(plugin: Any, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a spec as its receiver takes them; earlier versions saved them as written."""
    given = spec.get("params") or {}
    converted, _ = convert_parameters(given, receivers(plugin), FRAMEWORK_ARGUMENTS)
    return dict(given) if converted is None else converted


def load_weights(policy: Objective, models: nn.ModuleDict, weights: Weights) -> None:
    """Let a policy have other weights, strictly.

    Args:
        policy: whose they are.
        models: its components.
        weights: component → its state, and `OWN` → that of the policy beside its components.

    Raises:
        CheckpointError: they are not those of this policy; it stays as it was.
    """
    for name, state in weights.items():
        if name != OWN and name not in models:
            raise CheckpointError(f"the weights are of a component '{name}', which the policy does not have")
        if name != OWN:
            check_fits(name, models[name].state_dict(), state, "what was published")
    if OWN in weights:
        load_own_state(policy, models, weights[OWN])
    for name, state in weights.items():
        if name != OWN:
            models[name].load_state_dict(state, strict=True)


def load_component(module: nn.Module, path: Path) -> None:
    """Load the weights of one component strictly.

    Raises:
        CheckpointError: the file is missing, or its tensors are not those of the component.
    """
    state = load_tensors(path)
    check_fits(path.stem, module.state_dict(), state, path)
    module.load_state_dict(state, strict=True)
