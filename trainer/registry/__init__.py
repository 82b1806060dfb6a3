"""Names for everything that a plugin can add: the registries and the plugin loader."""

from __future__ import annotations

from trainer.registry.core import Registry
from trainer.registry.plugins import PluginError, load_plugins, load_trusted_plugins
from trainer.templates import (
    Callback,
    DatasetFactory,
    Expert,
    Logger,
    LossFactory,
    Metric,
    OptimizerFactory,
    Simulator,
    Trainer,
)

__all__ = [
    "CALLBACK_REGISTRY",
    "DATASET_BUILDER_REGISTRY",
    "EXPERT_REGISTRY",
    "LOGGER_REGISTRY",
    "LOSS_BUILDER_REGISTRY",
    "METRIC_REGISTRY",
    "OPTIMIZER_BUILDER_REGISTRY",
    "SIMULATOR_REGISTRY",
    "TRAINER_REGISTRY",
    "PluginError",
    "Registry",
    "load_plugins",
    "load_trusted_plugins",
]

TRAINER_REGISTRY: Registry[Trainer] = Registry("trainer", Trainer)
DATASET_BUILDER_REGISTRY: Registry[DatasetFactory] = Registry("dataset_builder", DatasetFactory)
OPTIMIZER_BUILDER_REGISTRY: Registry[OptimizerFactory] = Registry("optimizer_builder", OptimizerFactory)
LOSS_BUILDER_REGISTRY: Registry[LossFactory] = Registry("loss_builder", LossFactory)
SIMULATOR_REGISTRY: Registry[Simulator] = Registry("simulator", Simulator)
CALLBACK_REGISTRY: Registry[Callback] = Registry("callback", Callback)
LOGGER_REGISTRY: Registry[Logger] = Registry("logger", Logger)
METRIC_REGISTRY: Registry[Metric] = Registry("metric", Metric)
EXPERT_REGISTRY: Registry[Expert] = Registry("expert", Expert)
