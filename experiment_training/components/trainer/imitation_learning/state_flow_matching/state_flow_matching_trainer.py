"""Registers the trainer of the state flow-matching policy."""

from __future__ import annotations

from experiment_training.components.trainer.imitation_learning.state_flow_matching.policy import (
    StateFlowMatchingPolicy,
)
from trainer.engine.step import PolicyTrainer
from trainer.registry import TRAINER_REGISTRY


@TRAINER_REGISTRY.register("state_flow_matching_trainer")
class StateFlowMatchingTrainer(PolicyTrainer):
    """Trains `StateFlowMatchingPolicy`; `train.trainer.params` are the policy's arguments."""

    policy_class = StateFlowMatchingPolicy
