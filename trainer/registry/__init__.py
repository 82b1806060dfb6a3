"""Names for everything that a plugin can add: the registries and the plugin loader."""

from __future__ import annotations

from trainer.registry.core import Registry
from trainer.registry.plugins import PluginError, load_plugins
from trainer.templates import DatasetFactory, LossFactory, OptimizerFactory, Simulator, Trainer

__all__ = [
    "DATASET_BUILDER_REGISTRY",
    "LOSS_BUILDER_REGISTRY",
    "OPTIMIZER_BUILDER_REGISTRY",
    "SIMULATOR_REGISTRY",
    "TRAINER_REGISTRY",
    "PluginError",
    "Registry",
    "load_plugins",
]

TRAINER_REGISTRY: Registry[Trainer] = Registry("trainer", Trainer)
DATASET_BUILDER_REGISTRY: Registry[DatasetFactory] = Registry("dataset_builder", DatasetFactory)
OPTIMIZER_BUILDER_REGISTRY: Registry[OptimizerFactory] = Registry("optimizer_builder", OptimizerFactory)
LOSS_BUILDER_REGISTRY: Registry[LossFactory] = Registry("loss_builder", LossFactory)
SIMULATOR_REGISTRY: Registry[Simulator] = Registry("simulator", Simulator)
