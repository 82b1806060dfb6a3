"""Sizes that a configuration gives by hand, held against those of the dataset."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from trainer.config.schemas import ExperimentConfig
from trainer.config.validation import Issues
from trainer.data.columns import ACTION
from trainer.engine.check import CheckedConfig
from trainer.engine.places import arguments_named
from trainer.registry import TRAINER_REGISTRY
from trainer.templates import Policy, TrainingDataset

_NAMES = ACTION_DIM, ACTION_HORIZON = "action_dim", "action_horizon"


def check_dimensions(issues: Issues, checked: CheckedConfig, dataset: TrainingDataset) -> None:
    """Note where `action_dim` or `action_horizon` cannot be those of the dataset.

    Those of a policy are of whole chunks. A component may have to do with a part of an action, such as one
    arm of two, so its own are only wrong where they are no whole part; the first forward pass tells the rest.
    """
    config = checked.as_read
    given = config.train.trainer.params if config is not None and _acts(config) else {}
    in_models = [
        (name, component, value, location)
        for component, model in checked.component_paths.items()
        for name in _NAMES
        for value, location in arguments_named(model, name)
    ]
    if not in_models and not any(name in given for name in _NAMES):
        return
    sizes = _sizes(dataset)
    for name, (size, what) in sizes.items():
        value = given.get(name)
        if isinstance(value, int) and value != size:
            path = ("train", "trainer", "params", name)
            issues.add(path, f"{name} is {value}, the dataset's {what} {size}")
    for name, component, value, location in in_models:
        if name in sizes and (value < 1 or sizes[name][0] % value):
            size, what = sizes[name]
            here = ("model", "component_config_paths", component)
            message = f"{name} of component '{component}' is {value}, the dataset's {what} {size}"
            issues.add_in_model(here, message, location)


def _acts(config: ExperimentConfig) -> bool:
    """Say whether the trainer trains a policy that acts, and so predicts whole chunks."""
    kind = config.train.trainer.type
    if not TRAINER_REGISTRY.has(kind):
        return False
    policy_class = getattr(TRAINER_REGISTRY.get(kind), "policy_class", None)
    return isinstance(policy_class, type) and issubclass(policy_class, Policy)


def _sizes(dataset: TrainingDataset) -> dict[str, tuple[int, str]]:
    """Return what a size must be, and how the dataset is spoken of; nothing where it gives no chunks."""
    chunk = dataset.__getitems__(np.zeros(1, np.int64)).get(ACTION)
    if not isinstance(chunk, Tensor) or chunk.ndim != 3:
        return {}
    horizon, width = chunk.shape[1:]
    return {ACTION_DIM: (width, "action has"), ACTION_HORIZON: (horizon, "action chunks have")}
