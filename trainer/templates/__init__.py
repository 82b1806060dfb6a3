"""Protocols that plugins implement; only method names are checked, no base class is asked for.

`Callback` is the exception: it has many methods of which a plugin wants few, so it is a base class.
"""

from __future__ import annotations

from trainer.templates.callback import Callback
from trainer.templates.dataset import DatasetFactory
from trainer.templates.logger import Logger, RunIdentity
from trainer.templates.loss import LossFactory
from trainer.templates.metric import Metric
from trainer.templates.optim import OptimizerFactory
from trainer.templates.policy import Policy, RobotPolicy
from trainer.templates.simulator import Simulator, SimulatorStep
from trainer.templates.trainer import Trainer

__all__ = [
    "Callback",
    "DatasetFactory",
    "Logger",
    "LossFactory",
    "Metric",
    "OptimizerFactory",
    "Policy",
    "RobotPolicy",
    "RunIdentity",
    "Simulator",
    "SimulatorStep",
    "Trainer",
]
