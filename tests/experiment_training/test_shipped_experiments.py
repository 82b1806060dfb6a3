"""Every experiment under experiment_training/imitation_learning is valid, and its components fit together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from model_constructor import random_source
from torch import Tensor, nn

from trainer.config.loader import load_located
from trainer.deployment.policy_parts import build_models, build_policy
from trainer.engine.check import CheckedConfig, check
from trainer.modeling.initialize import freeze
from trainer.registry import OPTIMIZER_BUILDER_REGISTRY, TRAINER_REGISTRY
from trainer.templates import Context, Policy
from trainer.utils.random import SampleRandom

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiment_training/imitation_learning"
FILES = sorted(path.relative_to(EXPERIMENTS).as_posix() for path in EXPERIMENTS.rglob("*.yaml"))
# Millions of parameters, of which trained; the table of docs/experiments/README.md.
SIZES = {
    "cfg_vqvae_flow_matching/exp1/cfg_vqvae_flow_matching.yaml": (1056, 450),
    "mutual_information_estimator/exp1/mutual_information_estimator.yaml": (48, 48),
    "naive_flow_matching_policy/exp1/naive_flow_matching_policy.yaml": (809, 506),
    "naive_flow_matching_policy/exp2/naive_flow_matching_policy.yaml": (809, 506),
    "variational_flow_matching_policy/exp1/variational_flow_matching_policy.yaml": (1136, 833),
    "variational_flow_matching_policy/exp2/variational_flow_matching_policy.yaml": (1136, 833),
    "vfp_single_expert/exp1/vfp_single_expert.yaml": (973, 973),
    "vfp_single_expert/exp2/vfp_single_expert_depth.yaml": (1282, 978),
}


class NoTransport(nn.Module):
    """Takes the place of the transport, whose solver asks for values."""

    def forward(self, pred_action, target_action, state_pred, state_target):
        return (pred_action - target_action).square().mean()


def checked_file(name: str) -> CheckedConfig:
    checked = check(load_located(EXPERIMENTS / name))
    checked.issues.raise_if_any()
    assert list(checked.warnings) == []
    return checked


def full_batch(checked: CheckedConfig) -> dict[str, Tensor]:
    """Return a batch on the meta device as the robots of the experiments give it."""
    params = checked.config.data.datamodule.params
    small = Path(checked.located.path).name == "small.yaml"
    action, state, current, height, width = (4, 39, 2, 96, 96) if small else (24, 24, 24, 240, 320)
    chunk, history = params["action_horizon"], params["obs_proprio_history"]
    shapes: dict[str, tuple[int, ...]] = {
        "action": (chunk, action),
        "observation.state": (history, state + current),
        "observation.proprio_state": (history, state),
        **{
            f"observation.images.{camera}": (3, height, width)
            for camera in ("cam_head", "cam_left", "cam_right")
        },
    }
    return {name: torch.zeros((2, *shape), device="meta") for name, shape in shapes.items()}


@pytest.mark.parametrize("name", FILES)
def test_a_shipped_experiment_is_valid(name: str) -> None:
    for spec in checked_file(name).config.model.component_optims.values():
        OPTIMIZER_BUILDER_REGISTRY.get(spec.type)(**spec.params)


def by_size() -> list[Any]:
    """Return all experiments; the large ones take their time, even without memory."""
    slow = [name for name, (size, _) in SIZES.items() if size > 100]
    return [pytest.param(name, marks=[pytest.mark.slow] if name in slow else []) for name in FILES]


@pytest.mark.parametrize("name", by_size())
def test_the_components_of_a_shipped_experiment_fit_together(name: str) -> None:
    checked = checked_file(name)
    config = checked.config
    with torch.device("meta"):
        models = build_models(checked.component_paths)
    for component in models:
        if component not in config.optimizers:
            freeze(models[component])
    trainer = TRAINER_REGISTRY.get(config.train.trainer.type)
    loss = None if config.train.loss is None else NoTransport()
    policy = build_policy(trainer.policy_class, models, loss, config.train.trainer.params).eval().to("meta")
    random = SampleRandom(0, device="meta")
    batch = full_batch(checked)
    with random_source(random):
        total = policy.loss(batch, Context(random, training=True))["total"]
        assert total.shape == ()
        # The mixture's gate asks for the value of its number of updates.
        if isinstance(policy, Policy) and not hasattr(policy, "updates"):
            assert policy.predict_action(batch, Context(random)).shape == batch["action"].shape
    sizes = [
        sum(p.numel() for p in models.parameters()),
        sum(p.numel() for p in models.parameters() if p.requires_grad),
    ]
    if name in SIZES:
        assert tuple(round(size / 1e6) for size in sizes) == SIZES[name]


def test_every_family_has_a_small_experiment() -> None:
    folders = {Path(name).parent for name in FILES}
    assert {Path(name).parent for name in SIZES} == folders
    assert all((folder / "small.yaml").as_posix() in FILES for folder in folders)
