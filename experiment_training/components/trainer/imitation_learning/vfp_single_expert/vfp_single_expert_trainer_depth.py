"""Registers the single-expert policy with depth, with the usual trainer."""

from __future__ import annotations

from experiment_training.components.trainer.imitation_learning.vfp_single_expert.policy import (
    VFPSingleExpertDepthPolicy,
)
from trainer.engine.policy_trainer import register_policy

register_policy("vfp_single_expert_trainer_depth")(VFPSingleExpertDepthPolicy)
