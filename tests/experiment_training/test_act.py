"""ACT's objective: reconstruction, divergence, and a latent of zeros when it acts."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from experiment_training.components.trainer.imitation_learning.act.policy import (
    ACTPolicy,
    kl_to_standard_normal,
)
from trainer.templates import Context
from trainer.utils.random import SampleRandom


class Style(torch.nn.Module):
    inputs = ("state", "action", "action_is_pad")

    def forward(self, state, action, action_is_pad):
        self.is_pad = action_is_pad
        return torch.cat([action[:, 0], state - 1.0], dim=1)


class Transformer(torch.nn.Module):
    inputs = ("state", "latent")

    def forward(self, state, latent):
        return (state + 3.0 * latent)[:, None].expand(-1, 4, -1)


def policy(**params):
    components = torch.nn.ModuleDict({"style_encoder": Style(), "action_transformer": Transformer()})
    return ACTPolicy(components, action_horizon=4, action_dim=2, latent_dim=2, **params)


def batch():
    torch.manual_seed(0)
    is_pad = torch.arange(4)[None] >= torch.tensor([4, 2, 3])[:, None]
    return {"observation.state": torch.randn(3, 2), "action": torch.randn(3, 4, 2), "action_is_pad": is_pad}


def test_the_divergence_is_that_of_torch():
    mean, log_variance = torch.randn(5, 7), torch.randn(5, 7)
    posterior = Independent(Normal(mean, (0.5 * log_variance).exp()), 1)
    prior = Independent(Normal(torch.zeros(5, 7), torch.ones(5, 7)), 1)
    expected = kl_divergence(posterior, prior)
    torch.testing.assert_close(kl_to_standard_normal(mean, log_variance), expected)


def test_the_loss_is_that_of_a_loop_over_samples():
    data = batch()
    losses = policy(kl_weight=10.0).loss(data, Context(SampleRandom(4)))
    noise = SampleRandom(4).normal((3, 2))
    l1, kl = [], []
    for b in range(3):
        state, action = data["observation.state"][b], data["action"][b]
        own = int((~data["action_is_pad"][b]).sum())
        mean, log_variance = action[0], state - 1.0
        latent = mean + torch.exp(log_variance / 2) * noise[b]
        l1.append((state + 3.0 * latent - action[:own]).abs().mean().item())
        kl.append(-0.5 * sum((1 + log_variance - mean**2 - log_variance.exp()).tolist()))
    assert losses["l1"].item() == pytest.approx(sum(l1) / 3, rel=1e-5)
    assert losses["kl"].item() == pytest.approx(sum(kl) / 3, rel=1e-5)
    assert losses["total"].item() == pytest.approx(sum(l1) / 3 + 10.0 * sum(kl) / 3, rel=1e-5)


def test_padding_reaches_the_style_encoder_and_data_without_flags_has_none():
    one = policy()
    data = batch()
    one.loss(data, Context(SampleRandom(0)))
    assert torch.equal(one.components["style_encoder"].is_pad, data["action_is_pad"])
    del data["action_is_pad"]
    one.loss(data, Context(SampleRandom(0)))
    assert not one.components["style_encoder"].is_pad.any()


def test_a_robot_has_a_latent_of_zeros():
    data = {"observation.state": torch.randn(3, 2)}
    chunk = policy().predict_action(data, Context(SampleRandom(0)))
    torch.testing.assert_close(chunk, data["observation.state"][:, None].expand(-1, 4, -1))


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"n_action_steps": 5}, "n_action_steps is 5, but a chunk holds 1 to 4"),
        ({"kl_weight": -1.0}, "kl_weight is -1.0, but it must not be negative"),
    ],
)
def test_numbers_out_of_range_are_named(params, text):
    with pytest.raises(ValueError, match=text):
        policy(**params)


def test_a_missing_component_is_named():
    with pytest.raises(ValueError, match="ACT needs a component named style_encoder"):
        ACTPolicy(torch.nn.ModuleDict({"action_transformer": Transformer()}), action_horizon=4, action_dim=2)
