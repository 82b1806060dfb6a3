"""Registers the regression policy, with the usual trainer."""

from __future__ import annotations

from experiment_training.components.trainer.imitation_learning.regression.policy import RegressionPolicy
from trainer.engine.policy_trainer import register_policy

register_policy("regression_trainer")(RegressionPolicy)
