"""The nine small policies of Push-T from state stand on one footing, and each of them sees the T."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from trainer import build_policy
from trainer.config.loader import load_located
from trainer.engine.check import CheckedConfig, check
from trainer.templates import Context, Policy
from trainer.utils.random import SampleRandom

FOLDER = Path(__file__).parents[2] / "examples/configs/pusht_small"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def checked_file(name: str) -> CheckedConfig:
    checked = check(load_located(FOLDER / f"{name}.yaml"))
    checked.issues.raise_if_any()
    assert list(checked.warnings) == []
    return checked


def observed(checked: CheckedConfig, samples: int) -> dict[str, Tensor]:
    """Return a normalized batch as Push-T gives it; the pose of the T stays in pixels and radians."""
    params = checked.config.data.datamodule.params
    rows, history = torch.Generator().manual_seed(0), params["obs_proprio_history"]
    pose = torch.rand((samples, history, 3), generator=rows) * torch.tensor([512.0, 512.0, 6.28])
    return {
        "action": torch.randn((samples, params["action_horizon"], 2), generator=rows),
        "action_is_pad": torch.zeros((samples, params["action_horizon"]), dtype=torch.bool),
        "observation.state": torch.randn((samples, history, 2), generator=rows),
        "observation.environment_state": pose,
    }


def test_they_stand_on_one_footing() -> None:
    assert len(NAMES) == 9
    footings = []
    for name in NAMES:
        config = checked_file(name).config
        optimizers = {(spec.type, str(spec.params)) for spec in config.model.component_optims.values()}
        train, data = config.train, config.data
        footings.append((data.batch_size, train.epoch, train.gradient_clip_val, train.ema, optimizers))
        assert data.datamodule.params["action_horizon"] == 16
        assert train.trainer.params["n_action_steps"] == 8
    assert all(one == footings[0] for one in footings)


@pytest.mark.parametrize("name", NAMES)
def test_each_learns_in_all_its_components_and_sees_the_t(name: str) -> None:
    checked = checked_file(name)
    config = checked.config
    if config.train.loss is not None:
        pytest.importorskip("geomloss")
    if name == "diffusion":
        pytest.importorskip("diffusers")
    torch.manual_seed(0)
    policy = build_policy(FOLDER / f"{name}.yaml")
    assert isinstance(policy, Policy)
    batch = observed(checked, 3)

    policy.loss(batch, Context(SampleRandom(0), training=True))["total"].backward()
    for component in config.optimizers:
        gradients = [p.grad for p in policy.components[component].parameters() if p.grad is not None]
        assert any(gradient.abs().max() > 0 for gradient in gradients), component

    policy.eval()
    with torch.no_grad():
        chunk = policy.predict_action(batch, Context(SampleRandom(1)))
        turned = batch["observation.environment_state"] + torch.tensor([0.0, 0.0, 1.5])
        other = policy.predict_action(
            {**batch, "observation.environment_state": turned}, Context(SampleRandom(1))
        )
    assert chunk.shape == (3, 16, 2)
    assert all((chunk - other).abs().amax(dim=(1, 2)) > 1e-5)
