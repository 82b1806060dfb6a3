"""Registers the minimal iterative policy, with the usual trainer."""

from __future__ import annotations

from experiment_training.components.trainer.imitation_learning.mip.policy import MIPPolicy
from trainer.engine.policy_trainer import register_policy

register_policy("mip_trainer")(MIPPolicy)
