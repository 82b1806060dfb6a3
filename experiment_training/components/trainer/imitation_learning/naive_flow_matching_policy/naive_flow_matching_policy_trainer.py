"""Registers the naive flow-matching policy, with the usual trainer."""

from __future__ import annotations

from experiment_training.components.trainer.imitation_learning.naive_flow_matching_policy.policy import (
    NaiveFlowMatchingPolicy,
)
from trainer.engine.policy_trainer import register_policy

register_policy("naive_flow_matching_policy_trainer")(NaiveFlowMatchingPolicy)
