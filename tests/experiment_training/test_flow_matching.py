"""Flow matching: times, paths, targets, integration."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from experiment_training.components.trainer.imitation_learning.flow_matching import (
    TOLERANCE,
    check_integration,
    chunk_error,
    integrate,
    sample_flow,
)
from experiment_training.components.trainer.imitation_learning.state_flow_matching.policy import (
    StateFlowMatchingPolicy,
)
from trainer.templates import Context
from trainer.utils.random import SampleRandom


def test_points_lie_on_straight_paths_from_noise_to_action() -> None:
    action = torch.randn(7, 4, 2, generator=torch.Generator().manual_seed(0))
    flow = sample_flow(action, SampleRandom(1))
    t = flow.time[:, None, None]
    torch.testing.assert_close(flow.point, (1 - t) * flow.noise + t * action)
    torch.testing.assert_close(flow.point + (1 - t) * flow.velocity, action)


def test_times_follow_beta_1_1_5() -> None:
    time = sample_flow(torch.zeros(50_000, 1, 1), SampleRandom(2)).time.double().numpy()
    reference = np.random.default_rng(0).beta(1.0, 1.5, 50_000)
    grid = np.linspace(0.05, 0.95, 10)
    np.testing.assert_allclose(np.quantile(time, grid), np.quantile(reference, grid), atol=0.01)


def test_a_constant_velocity_is_followed_exactly() -> None:
    noise, goal = torch.randn(3, 4, 2), torch.randn(3, 4, 2)
    torch.testing.assert_close(integrate(lambda _, __: goal - noise, noise, 7), goal)


def test_euler_steps_see_the_times_at_their_beginnings() -> None:
    seen = []
    integrate(lambda time, x: (seen.append(time[0].item()), torch.zeros_like(x))[1], torch.zeros(1, 1, 1), 4)
    assert seen == pytest.approx([0.0, 0.25, 0.5, 0.75])


def growth(time, x):
    """x' = (1 + t) x, whose solution at t = 1 is x(0) · exp(1.5)."""
    return (1 + time)[:, None, None] * x


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("midpoint", 2)])
def test_methods_converge_by_their_order(method, order) -> None:
    start = torch.ones(2, 1, 1, dtype=torch.float64)
    errors = [abs(integrate(growth, start, n, method)[0].item() - np.exp(1.5)) for n in (20, 40)]
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.1)


def test_the_adaptive_method_keeps_its_tolerance() -> None:
    pytest.importorskip("torchdiffeq")
    start = torch.randn(3, 4, 2, dtype=torch.float64)
    torch.testing.assert_close(
        integrate(growth, start, 10, "dopri5"), start * np.exp(1.5), rtol=10 * TOLERANCE, atol=10 * TOLERANCE
    )


def test_an_adaptive_method_without_its_library_is_refused(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises(ValueError, match=r"needs the library torchdiffeq; pip install 'trainer-il\[flow\]'"):
        check_integration(10, "dopri5")
    with pytest.raises(ValueError, match="integration_steps is 0"):
        check_integration(0, "euler")


def test_steps_beyond_the_episode_do_not_count() -> None:
    error = torch.tensor([[[1.0], [3.0], [100.0]], [[2.0], [2.0], [2.0]]])
    is_pad = torch.tensor([[False, False, True], [False, False, False]])
    assert chunk_error(error, is_pad).item() == pytest.approx((2 + 2) / 2)
    assert chunk_error(error, None).item() == pytest.approx((104 / 3 + 2) / 2)


@pytest.mark.parametrize("flags", [(True, True), (True, False), (False, True), (False, False)])
def test_padding_does_not_count_as_in_a_loop_over_numbers(flags) -> None:
    rng = np.random.default_rng(0)
    error, is_pad, dim_is_pad = rng.random((6, 5, 4)), rng.random((6, 5)) < 0.4, rng.random((6, 4)) < 0.4
    is_pad[0] = True  # a sample without anything of its own
    with_steps, with_dims = flags
    samples = []
    for b in range(6):
        steps = [
            np.mean([error[b, s, a] for a in range(4) if not (with_dims and dim_is_pad[b, a])] or [0.0])
            for s in range(5)
            if not (with_steps and is_pad[b, s])
        ]
        samples.append(np.mean(steps or [0.0]))
    ours = chunk_error(
        torch.from_numpy(error),
        torch.from_numpy(is_pad) if with_steps else None,
        torch.from_numpy(dim_is_pad) if with_dims else None,
    )
    assert ours.item() == pytest.approx(np.mean(samples), rel=1e-6)


@pytest.mark.parametrize("train_on_padding", [False, True])
def test_the_policy_leaves_padding_out_of_its_loss(train_on_padding) -> None:
    class Decoder(torch.nn.Module):
        def forward(self, time, noise, condition):
            return torch.zeros_like(noise)

    class Encoder(torch.nn.Module):
        inputs = ("state",)

        def forward(self, state):
            return state

    policy = StateFlowMatchingPolicy(
        torch.nn.ModuleDict({"observation_encoder": Encoder(), "velocity_decoder": Decoder()}),
        action_horizon=3,
        action_dim=2,
        n_action_steps=1,
        train_on_padding=train_on_padding,
    )

    def loss(value, dim_is_pad=None):
        action = torch.ones(4, 3, 2)
        action[:, 2], action[:, :, 1] = value, action[:, :, 1] * (1 if dim_is_pad is None else value)
        is_pad = torch.tensor([False, False, True]).expand(4, 3)
        batch = {"observation.state": torch.zeros(4, 1), "action": action, "action_is_pad": is_pad}
        if dim_is_pad is not None:
            batch["action_dim_is_pad"] = torch.tensor(dim_is_pad).expand(4, 2)
        return policy.loss(batch, Context(SampleRandom(0)))["total"].item()

    assert (loss(1.0) == loss(100.0)) is not train_on_padding
    if not train_on_padding:
        assert loss(1.0, [False, True]) == loss(100.0, [False, True])
        assert loss(1.0, [False, False]) != loss(100.0, [False, False])
