"""Sizes that a configuration gives by hand, held against those of the dataset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from trainer.config.schemas import ExperimentConfig
from trainer.config.validation import Issues
from trainer.data.columns import ACTION
from trainer.engine.check import CheckedConfig
from trainer.engine.places import arguments_named
from trainer.registry import TRAINER_REGISTRY
from trainer.templates import Policy, TrainingDataset

ACTION_DIM, ACTION_HORIZON = "action_dim", "action_horizon"


def check_dimensions(issues: Issues, checked: CheckedConfig, dataset: TrainingDataset) -> None:
    """Note where `action_dim` or `action_horizon` cannot be those of the dataset.

    Those of a policy are of whole chunks. A component may have to do with a part of an action, such as one
    arm of two, so its own are only wrong where they are no whole part; the first forward pass tells the rest.
    """
    sizes = _sizes(dataset)
    config = checked.as_read
    given = config.train.trainer.params if config is not None and _acts(config) else {}
    for name, (size, what) in sizes.items():
        value = given.get(name)
        if isinstance(value, int) and value != size:
            path = ("train", "trainer", "params", name)
            issues.add(path, f"{name} is {value}, the dataset's {what} {size}")
        for component, model in checked.component_paths.items():
            for value, location in arguments_named(model, name):
                if value > size or size % value:
                    here = ("model", "component_config_paths", component)
                    message = f"{name} of component '{component}' is {value}, the dataset's {what} {size}"
                    issues.add_in_model(here, message, location)


def _acts(config: ExperimentConfig) -> bool:
    """Say whether the trainer trains a policy that acts, and so predicts whole chunks."""
    kind = config.train.trainer.type
    policy_class = (
        getattr(TRAINER_REGISTRY.get(kind), "policy_class", None) if TRAINER_REGISTRY.has(kind) else None
    )
    return isinstance(policy_class, type) and issubclass(policy_class, Policy)


def _sizes(dataset: TrainingDataset) -> Mapping[str, tuple[int, str]]:
    """Return what a parameter must be, and how the dataset is spoken of; nothing where it does not tell."""
    facts: Mapping[str, Any] = dataset.facts()
    feature = (facts.get("features") or {}).get(ACTION)
    window = (facts.get("windows") or {}).get(ACTION)
    if facts.get("datasets") or not feature or not window:
        chunk = dataset.__getitems__([0]).get(ACTION)
        if not isinstance(chunk, Tensor) or chunk.ndim != 3:
            return {}
        horizon, width = chunk.shape[1:]
    elif len(feature["shape"]) != 1:
        return {}
    else:
        horizon, width = len(window), feature["shape"][0]
    return {
        ACTION_DIM: (int(width), "action has"),
        ACTION_HORIZON: (int(horizon), "action chunks have"),
    }
