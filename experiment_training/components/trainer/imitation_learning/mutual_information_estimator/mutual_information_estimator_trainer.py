"""Registers the mutual-information estimator, with the usual trainer."""

from __future__ import annotations

from experiment_training.components.trainer.imitation_learning.mutual_information_estimator.objective import (
    MutualInformationEstimator,
)
from trainer.engine.policy_trainer import register_policy

register_policy("mutual_information_estimator_trainer")(MutualInformationEstimator)
