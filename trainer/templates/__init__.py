"""Protocols that plugins implement; only method names are checked, no base class is asked for."""

from __future__ import annotations

from trainer.templates.dataset import DatasetFactory
from trainer.templates.loss import LossFactory
from trainer.templates.optim import OptimizerFactory
from trainer.templates.policy import Policy, RobotPolicy
from trainer.templates.simulator import Simulator, SimulatorStep
from trainer.templates.trainer import Trainer

__all__ = [
    "DatasetFactory",
    "LossFactory",
    "OptimizerFactory",
    "Policy",
    "RobotPolicy",
    "Simulator",
    "SimulatorStep",
    "Trainer",
]
