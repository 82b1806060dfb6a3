"""Registers the state flow-matching policy, with the usual trainer."""

from __future__ import annotations

from experiment_training.components.trainer.imitation_learning.state_flow_matching.policy import (
    StateFlowMatchingPolicy,
)
from trainer.engine.policy_trainer import register_policy

register_policy("state_flow_matching_trainer")(StateFlowMatchingPolicy)
