"""What every shipped policy must do: learn, reproduce itself, reach all weights, act as it was trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.policies import (
    CASES,
    STEPS,
    check_acts_as_in_training,
    loader_of,
    losses_of,
    parameters_without_gradient,
    weights_of,
    write_films,
)

from trainer.offline_trainer import train


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
