"""Denoising diffusion: its schedule, its steps, and where a chunk begins."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from experiment_training.components.trainer.imitation_learning.diffusion_policy.diffusion import Diffusion
from trainer.utils.errors import UsageError
from trainer.utils.random import SampleRandom

diffusers = pytest.importorskip("diffusers")


def diffusion(**changes):
    usual = {
        "scheduler": "ddpm",
        "num_train_steps": 100,
        "num_inference_steps": 100,
        "beta_schedule": "squaredcos_cap_v2",
        "prediction": "epsilon",
        "clip_range": 1.0,
    }
    return Diffusion(**{**usual, **changes})


def cosine_alphas(steps):
    """Nichol & Dhariwal 2021, with betas of at most 0.999."""
    f = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.cumprod(1 - np.minimum(1 - f[1:] / f[:-1], 0.999))


def test_alphas_are_those_of_the_cosine_formula():
    ours = diffusion().alphas_cumprod.double().numpy()
    # Products of a hundred float32 numbers, the last of which is 10⁻⁶ of the first.
    np.testing.assert_allclose(ours, cosine_alphas(100), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_training_points_lie_between_action_and_noise(prediction):
    action = torch.rand(2000, 4, 2) * 2 - 1
    steps, point, target = diffusion(prediction=prediction).training_point(action, SampleRandom(0))
    assert (steps.min(), steps.max()) == (0, 99)
    assert abs(steps.double().mean().item() - 49.5) < 3 * 100 / np.sqrt(12 * 2000)
    alpha = torch.from_numpy(cosine_alphas(100))[steps][:, None, None].float()
    noise = SampleRandom(0)
    noise.uniform((2000,))
    epsilon = noise.normal((2000, 4, 2))
    torch.testing.assert_close(
        point, alpha.sqrt() * action + (1 - alpha).sqrt() * epsilon, atol=1e-4, rtol=1e-4
    )
    wanted = {
        "epsilon": epsilon,
        "sample": action,
        "v_prediction": alpha.sqrt() * epsilon - (1 - alpha).sqrt() * action,
    }[prediction]
    torch.testing.assert_close(target, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("scheduler", ["ddpm", "ddim"])
@pytest.mark.parametrize("steps", [100, 10, 1])
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_a_perfect_denoiser_gives_back_the_data(scheduler, steps, prediction):
    data = torch.rand(3, 4, 2) * 2 - 1
    alphas = torch.from_numpy(cosine_alphas(100)).float()

    def perfect(step, x):
        alpha = alphas[step][:, None, None]
        epsilon = (x - alpha.sqrt() * data) / (1 - alpha).sqrt()
        return {
            "epsilon": epsilon,
            "sample": data,
            "v_prediction": alpha.sqrt() * epsilon - (1 - alpha).sqrt() * data,
        }[prediction]

    model = diffusion(scheduler=scheduler, num_inference_steps=steps, prediction=prediction)
    sampled = model.sample(perfect, (3, 4, 2), SampleRandom(0))
    torch.testing.assert_close(sampled, data, atol=2e-3, rtol=0)


@pytest.mark.parametrize("steps", [100, 10])
@pytest.mark.parametrize("clip_range", [1.0, None])
def test_ddpm_is_that_of_the_library_with_the_same_noise(steps, clip_range, monkeypatch):
    weight = torch.randn(2, 2, generator=torch.Generator().manual_seed(0))

    def network(step, x):
        return torch.tanh(x @ weight + step[:, None, None] / 100)

    ours = diffusion(num_inference_steps=steps, clip_range=clip_range)
    sampled = ours.sample(network, (3, 4, 2), SampleRandom(5))

    noise = SampleRandom(5)
    module = sys.modules[diffusers.DDPMScheduler.__module__]
    monkeypatch.setattr(module, "randn_tensor", lambda shape, **_: noise.normal(tuple(shape)))
    theirs = diffusers.DDPMScheduler(
        num_train_timesteps=100, beta_schedule="squaredcos_cap_v2", clip_sample=clip_range is not None
    )
    theirs.set_timesteps(steps)
    x = noise.normal((3, 4, 2))
    for step in theirs.timesteps:
        x = theirs.step(network(step.expand(3), x), step, x).prev_sample
    torch.testing.assert_close(sampled, x, atol=1e-3, rtol=1e-3)


def test_noise_belongs_to_samples():
    def network(step, x):
        return torch.tanh(x)

    whole = diffusion(num_inference_steps=10).sample(network, (4, 8, 2), SampleRandom(1))
    halves = [
        diffusion(num_inference_steps=10).sample(network, (2, 8, 2), SampleRandom(1, rank=r, world_size=2))
        for r in range(2)
    ]
    torch.testing.assert_close(torch.cat(halves), whole)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"num_inference_steps": 101},
            r"num_inference_steps is 101, but it must be 1 to num_train_steps \(100\)",
        ),
        ({"num_train_steps": 0}, "num_train_steps is 0, but at least 1 is needed"),
        ({"clip_range": 0.0}, "clip_range is 0.0, but it must be greater than 0"),
    ],
)
def test_numbers_out_of_range_are_named(changes, text):
    with pytest.raises(ValueError, match=text):
        diffusion(**changes)


def test_without_the_library_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers.schedulers.scheduling_ddim", None)
    with pytest.raises(
        UsageError, match=r"'diffusers', which is not installed: pip install 'trainer-il\[diff"
    ):
        diffusion()
