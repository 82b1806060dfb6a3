"""Regression and MIP: their losses and predictions against the formulas, over one network."""

from __future__ import annotations

import pytest
import torch

from experiment_training.components.trainer.imitation_learning.mip.policy import MIPPolicy
from experiment_training.components.trainer.imitation_learning.regression.policy import RegressionPolicy
from trainer.templates import Context
from trainer.utils.random import SampleRandom


class Encoder(torch.nn.Module):
    inputs = ("state",)

    def forward(self, state):
        return 2.0 * state


class Decoder(torch.nn.Module):
    """Tells time, noise and condition apart."""

    def forward(self, time, noise, condition):
        return condition[:, None] + 0.5 * noise.sin() + time[:, None, None]


def build(policy_class, **params):
    components = torch.nn.ModuleDict({"observation_encoder": Encoder(), "velocity_decoder": Decoder()})
    return policy_class(components, action_horizon=4, action_dim=2, n_action_steps=2, **params)


def batch():
    torch.manual_seed(0)
    is_pad = torch.arange(4)[None] >= torch.tensor([4, 2, 3])[:, None]
    return {"observation.state": torch.randn(3, 2), "action": torch.randn(3, 4, 2), "action_is_pad": is_pad}


def mean_square(error, is_pad):
    own = [int((~row).sum()) for row in is_pad]
    return sum(error[b, : own[b]].square().mean().item() for b in range(len(error))) / len(error)


def test_regression_sees_zeros_at_time_zero():
    data = batch()
    policy = build(RegressionPolicy)
    expected = 2.0 * data["observation.state"][:, None].expand(-1, 4, -1)
    torch.testing.assert_close(policy.predict_action(data, Context(SampleRandom(0))), expected)
    loss = policy.loss(data, Context(SampleRandom(0)))["total"].item()
    assert loss == pytest.approx(mean_square(expected - data["action"], data["action_is_pad"]), rel=1e-5)


def test_mip_sums_the_errors_of_its_two_steps():
    data, t = batch(), 0.8
    state, action = data["observation.state"], data["action"]
    losses = build(MIPPolicy, t_star=t).loss(data, Context(SampleRandom(3)))
    noisy = t * action + (1 - t) * SampleRandom(3).normal((3, 4, 2))
    first = 2.0 * state[:, None] - action
    second = 2.0 * state[:, None] + 0.5 * noisy.sin() + t - action
    assert losses["first_step"].item() == pytest.approx(mean_square(first, data["action_is_pad"]), rel=1e-5)
    assert losses["second_step"].item() == pytest.approx(mean_square(second, data["action_is_pad"]), rel=1e-5)
    both = losses["first_step"] + losses["second_step"]
    assert losses["total"].item() == pytest.approx(both.item(), rel=1e-6)


def test_mip_acts_by_its_second_step_on_the_scaled_first():
    data = batch()
    first = 2.0 * data["observation.state"][:, None].expand(-1, 4, -1)
    expected = first + 0.5 * (0.9 * first).sin() + 0.9
    policy = build(MIPPolicy)
    torch.testing.assert_close(policy.predict_action(data, Context(SampleRandom(0))), expected)
    torch.testing.assert_close(policy.predict_action(data, Context(SampleRandom(1))), expected)


@pytest.mark.parametrize("t_star", [0.0, 1.0])
def test_a_share_that_is_none_is_refused(t_star):
    with pytest.raises(ValueError, match=f"t_star is {t_star}, but it must lie between 0 and 1"):
        build(MIPPolicy, t_star=t_star)


@pytest.mark.parametrize(("policy_class", "name"), [(RegressionPolicy, "regression"), (MIPPolicy, "MIP")])
def test_what_is_missing_is_named(policy_class, name):
    with pytest.raises(ValueError, match=f"{name} needs a component named velocity_decoder"):
        policy_class(torch.nn.ModuleDict({"observation_encoder": Encoder()}), action_horizon=4, action_dim=2)


def test_a_component_whose_name_is_misspelt_is_pointed_at():
    components = torch.nn.ModuleDict({"observation_encoder": Encoder(), "velocity_decodr": Encoder()})
    with pytest.raises(ValueError, match="named velocity_decoder; is 'velocity_decodr' to be it"):
        RegressionPolicy(components, action_horizon=4, action_dim=2)
