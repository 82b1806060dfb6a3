"""Registers the variational flow-matching policy, with the usual trainer."""

from __future__ import annotations

from experiment_training.components.trainer.imitation_learning.variational_flow_matching_policy import policy
from trainer.engine.policy_trainer import register_policy

register_policy("variational_flow_matching_policy_trainer")(policy.VariationalFlowMatchingPolicy)
