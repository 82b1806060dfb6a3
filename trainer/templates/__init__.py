"""Protocols that plugins implement; only method names are checked, no base class is asked for.

The exceptions are base classes: `Callback` and `TrainingDataset`, of whose many methods a plugin wants few,
and `Objective` and `Policy`, which are torch modules.
"""

from __future__ import annotations

from trainer.templates.callback import Callback
from trainer.templates.context import Context
from trainer.templates.dataset import DatasetFactory, TrainingDataset
from trainer.templates.expert import Expert
from trainer.templates.logger import Logger, RunIdentity
from trainer.templates.loss import LossFactory
from trainer.templates.metric import Metric
from trainer.templates.optim import OptimizerFactory
from trainer.templates.policy import Objective, Policy, RobotPolicy
from trainer.templates.reduced import Reduced
from trainer.templates.simulator import Simulator, SimulatorStep
from trainer.templates.trainer import Trainer

__all__ = [
    "Callback",
    "Context",
    "DatasetFactory",
    "Expert",
    "Logger",
    "LossFactory",
    "Metric",
    "Objective",
    "OptimizerFactory",
    "Policy",
    "Reduced",
    "RobotPolicy",
    "RunIdentity",
    "Simulator",
    "SimulatorStep",
    "Trainer",
    "TrainingDataset",
]
