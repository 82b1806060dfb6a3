"""Registers Diffusion Policy, with the usual trainer."""

from __future__ import annotations

from experiment_training.components.trainer.imitation_learning.diffusion_policy.policy import DiffusionPolicy
from trainer.engine.policy_trainer import register_policy

register_policy("diffusion_policy_trainer")(DiffusionPolicy)
