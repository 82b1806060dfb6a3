"""Flow matching: times, paths, targets, integration."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from experiment_training.components.trainer.imitation_learning.flow_matching import (
    chunk_error,
    integrate,
    sample_flow,
)
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


def test_steps_beyond_the_episode_do_not_count() -> None:
    error = torch.tensor([[[1.0], [3.0], [100.0]], [[2.0], [2.0], [2.0]]])
    is_pad = torch.tensor([[False, False, True], [False, False, False]])
    assert chunk_error(error, is_pad).item() == pytest.approx((2 + 2) / 2)
    assert chunk_error(error, None).item() == pytest.approx((104 / 3 + 2) / 2)
