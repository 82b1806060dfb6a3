"""What every shipped policy must do: learn, reproduce itself, reach all weights, act as it was trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.policies import (
    CAMERA,
    STEPS,
    Case,
    check_acts_as_in_training,
    loader_of,
    losses_of,
    parameters_without_gradient,
    weights_of,
    write_films,
)

from trainer.offline_trainer import train

STATE_ENCODER = {"observation_dim": 2, "features": 4}
FLOW_DECODER = {"action_dim": 2, "condition_dim": 68}
ONE_OBSERVATION = {"obs_proprio_history": 1}
DIFFUSION_DATA = {"action_offset": -1}
MIN_MAX = {"action": "min_max"}


def flow_networks(folder: str) -> dict:
    return {
        "observation_encoder": (f"{folder}/small/observation_encoder.yaml", STATE_ENCODER),
        "velocity_decoder": (f"{folder}/small/velocity_decoder.yaml", FLOW_DECODER),
    }


def diffusion_networks(folder: str, encoder: dict, predictor: dict) -> dict:
    return {
        "observation_encoder": (f"diffusion_policy/{folder}/observation_encoder.yaml", encoder),
        "noise_predictor": (f"diffusion_policy/{folder}/noise_predictor.yaml", predictor),
    }


FEW_STEPS = {"num_train_steps": 100, "num_inference_steps": 5}
CASES = {
    "state_flow_matching": Case("state_flow_matching", flow_networks("state_flow_matching")),
    "regression": Case("regression", flow_networks("regression")),
    "mip": Case("mip", flow_networks("mip")),
    "diffusion_unet": Case(
        "diffusion_policy",
        diffusion_networks("small", STATE_ENCODER, FLOW_DECODER),
        FEW_STEPS,
        DIFFUSION_DATA,
        MIN_MAX,
    ),
    "diffusion_transformer": Case(
        "diffusion_policy",
        diffusion_networks("small_transformer", {"observation_dim": 2}, {"action_dim": 2}),
        {**FEW_STEPS, "noise_scheduler": "ddim"},
        DIFFUSION_DATA,
        MIN_MAX,
    ),
    "diffusion_image": Case(
        "diffusion_policy",
        diffusion_networks("small_image", {}, {}),
        FEW_STEPS,
        {**DIFFUSION_DATA, "obs_images_history": 2},
        MIN_MAX,
        (CAMERA,),
    ),
    "act": Case(
        "act",
        {
            "style_encoder": ("act/small/style_encoder.yaml", {"state_dim": 2, "action_dim": 2}),
            "action_transformer": ("act/small/action_transformer.yaml", {"state_dim": 2, "action_dim": 2}),
        },
        {"n_action_steps": 8},
        ONE_OBSERVATION,
    ),
    "act_image": Case(
        "act",
        {
            "backbone": ("act/small_image/backbone.yaml", {}),
            "style_encoder": ("act/small_image/style_encoder.yaml", {}),
            "action_transformer": ("act/small_image/action_transformer.yaml", {}),
        },
        {},
        ONE_OBSERVATION,
        cameras=(CAMERA,),
    ),
}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_films(tmp_path_factory.mktemp("films") / "set")


@pytest.fixture(scope="module", params=CASES)
def trained(request: pytest.FixtureRequest, films: Path, tmp_path_factory: pytest.TempPathFactory):
    """Return the case, its folder and its finished run."""
    case = CASES[request.param]
    if case.name == "diffusion_policy":
        pytest.importorskip("diffusers")
    folder = tmp_path_factory.mktemp(request.param)
    path = case.write(folder, films)
    return case, folder, train(path, [f"train.save_dir={folder / 'run'}"])


def test_twenty_steps_are_the_same_ones_again(trained) -> None:
    case, folder, run = trained
    again = train(folder / "experiment.yaml", [f"train.save_dir={folder / 'again'}"])
    losses = losses_of(run)
    assert len(losses) == STEPS
    assert losses == losses_of(again)
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    first, second = weights_of(run, case), weights_of(again, case)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_gradients_reach_all_weights(trained, films: Path) -> None:
    case, folder, run = trained
    batch = loader_of(case, films, run, 4).sample(np.array([0, 5, 11, 20]))
    assert parameters_without_gradient(case, folder, batch) == []


def test_a_robot_acts_as_the_policy_was_trained(trained, films: Path) -> None:
    case, _, run = trained
    check_acts_as_in_training(case, films, run)
