"""Registers ACT, with the usual trainer."""

from __future__ import annotations

from experiment_training.components.trainer.imitation_learning.act.policy import ACTPolicy
from trainer.engine.policy_trainer import register_policy

register_policy("act_trainer")(ACTPolicy)
