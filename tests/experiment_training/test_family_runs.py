"""The shipped families in whole runs: repeated, resumed, deployed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers.camera_families import CHUNK, FAMILIES, JOINTS, experiment, small_batch, write_dataset
from helpers.policies import CASES, write_films
from helpers.run_folder import metrics, weights
from helpers.runs import Run, launch
from killed_runs import kill_tree
from torch import nn

from experiment_training.components.trainer.imitation_learning.cfg_vqvae_flow_matching import (
    cfg_vqvae_flow_matching_trainer_kot as guided,
)
from trainer.deployment.robot_policy import load_policy
from trainer.offline_trainer import train
from trainer.templates import Callback, Context
from trainer.utils.random import SampleRandom

GUIDED = "cfg_vqvae_flow_matching_trainer_kot"
SAID_OF_TIME = {"samples_per_s", "data_wait"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "wander")


def written(key: str, tmp_path: Path, dataset: Path, **params: Any) -> Path:
    """Write the small experiment of a family and return its path."""
    if FAMILIES[key][4]:
        pytest.importorskip("geomloss")
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(experiment(key, tmp_path / "run", dataset, **params)))
    return path


def numbers(run: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in line.items() if k not in SAID_OF_TIME} for line in metrics(run)]


class Kept(Callback):
    """Keeps what the policy of the run predicts at its end."""

    def after_training(self, experiment: Any) -> None:
        policy = experiment.policy.eval()
        experiment.components.called.eval()
        with torch.no_grad():
            self.chunk = policy.predict_action(small_batch(), Context(SampleRandom(5)))


@pytest.mark.parametrize("key", FAMILIES)
def test_a_run_is_repeated_bit_for_bit_and_deployed_as_it_is(key, tmp_path, dataset) -> None:
    path = written(key, tmp_path, dataset, **({} if "estimator" in key else {"integration_steps": 2}))
    kept = [] if "estimator" in key else [Kept()]
    run = train(path, callbacks=kept)
    again = train(path, [f"train.save_dir={tmp_path / 'again'}"])
    assert len(numbers(run)) == 3
    assert numbers(run) == numbers(again)
    assert all(np.isfinite(value) for line in numbers(run) for value in line.values())
    for callback in kept:
        robot = load_policy(run, "cpu")
        with torch.no_grad():
            chunk = robot.policy.predict_action(small_batch(), Context(SampleRandom(5)))
        # Weights that ask for no gradients take other kernels, which round otherwise.
        torch.testing.assert_close(chunk, callback.chunk, rtol=1e-4, atol=1e-5)
        frame = {"observation.state": np.zeros(JOINTS, np.float32)}
        frame["observation.current"] = frame["observation.state"]
        picture = np.zeros((32, 32, 3), np.uint8)
        pictures = {name: picture for name in robot.observations if "images" in name}
        assert len(pictures) == 3
        assert robot.act({**frame, **pictures}).shape == (JOINTS,)
        assert robot.n_action_steps == CHUNK // 2


def test_teacher_and_moved_code_vectors_are_saved_and_resumed(tmp_path, dataset) -> None:
    path = written(GUIDED, tmp_path, dataset, reseed_every=2, teacher_decay=0.9)
    steps = ["train.max_steps=7"]
    whole = train(path, [*steps, f"train.save_dir={tmp_path / 'whole'}"])
    resumed = tmp_path / "resumed"
    train(path, ["train.max_steps=5", f"train.save_dir={resumed}"])
    train(path, [*steps, f"train.save_dir={resumed}"])
    assert numbers(resumed) == numbers(whole)
    replaced = [line["num_vecs_replaced"] for line in numbers(whole)]
    assert all(replaced[step] > 0 for step in (0, 2, 4, 6))
    assert all(replaced[step] == 0 for step in (1, 3, 5))
    states = [torch.load(run / "step_7/training_state.pt", weights_only=True) for run in (resumed, whole)]
    ours, theirs = (state["update"]["teachers"]["vqvae_posterior"]["weights"] for state in states)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert any(not torch.equal(v, states[1]["models"]["vqvae_posterior"][k]) for k, v in theirs.items())


def optimizers() -> list[Any]:
    schedulefree = pytest.importorskip("schedulefree")
    return [
        lambda p: torch.optim.AdamW(p, lr=0.1, amsgrad=True),
        lambda p: schedulefree.RAdamScheduleFree(p, lr=0.1),
    ]


@pytest.mark.parametrize("which", [0, 1])
def test_an_optimizer_forgets_the_rows_that_moved(which) -> None:
    table = nn.Embedding(4, 3)
    optimizer = optimizers()[which](table.parameters())
    for _ in range(8):
        if hasattr(optimizer, "train"):
            optimizer.train()
        optimizer.zero_grad()
        (table.weight - 1).square().sum().backward()
        optimizer.step()
    before = {k: v.clone() for k, v in optimizer.state[table.weight].items() if torch.is_tensor(v) and v.ndim}
    rows = torch.tensor([1, 3])
    with torch.no_grad():
        table.weight[rows] = 7.0
    guided.forget_rows(optimizer, table.weight, rows)
    for name, value in optimizer.state[table.weight].items():
        if torch.is_tensor(value) and value.ndim:
            assert torch.equal(value[[0, 2]], before[name][[0, 2]])
            assert torch.equal(value[rows], torch.full((2, 3), 7.0 if name == "z" else 0.0))
    assert before
    if hasattr(optimizer, "eval"):
        optimizer.eval()
        torch.testing.assert_close(table.weight[rows], torch.full((2, 3), 7.0))


@pytest.mark.slow
def test_two_ranks_are_one_with_the_batches_of_both(tmp_path, dataset) -> None:
    """Without the transport, which is that of each rank's own batch; codes move alike on both ranks."""
    config = experiment(GUIDED, tmp_path / "run", dataset, ot_weight=0, reseed_every=2)
    del config["train"]["loss"]
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(config))
    single = numbers(train(path, ["train.max_steps=5"]))
    launch(path, tmp_path / "two", 2, "train.max_steps=5", "data.batch_size=2")
    both = numbers(tmp_path / "two")
    for name in ("total", "velocity", "EMA_prior_posterior", "num_vecs_replaced"):
        np.testing.assert_allclose([line[name] for line in both], [line[name] for line in single], rtol=1e-4)


@pytest.fixture(scope="module", params=[*FAMILIES, *CASES])
def shipped(
    request: pytest.FixtureRequest, dataset: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, tuple[str, ...]]:
    """Return an experiment of every family and shipped policy, and its trained components."""
    folder = tmp_path_factory.mktemp("shipped")
    if request.param in FAMILIES:
        return written(request.param, folder, dataset), FAMILIES[request.param][2]
    case = CASES[request.param]
    if case.name == "diffusion_policy":
        pytest.importorskip("diffusers")
    return case.write(folder, write_films(folder / "films")), tuple(case.components)


def check_same(ours: Path, theirs: Path, checkpoint: str, components: tuple[str, ...]) -> None:
    """Check that two runs have the same numbers and weights."""
    assert numbers(ours) == numbers(theirs)
    for name in components:
        first, second = (weights(folder / checkpoint, name) for folder in (ours, theirs))
        assert all(torch.equal(first[tensor], second[tensor]) for tensor in second)


OFTEN = (
    "train.max_steps=12",
    "train.checkpoint={save_every_n_steps: 3}",
    "train.log_every_n_steps=1",
    "data.batch_size=2",
)


@pytest.fixture(scope="module")
def whole(shipped: tuple[Path, tuple[str, ...]]) -> Path:
    """Return the folder of a run of two ranks that nothing has interrupted."""
    path, _ = shipped
    launch(path, path.parent / "whole", 2, *OFTEN)
    return path.parent / "whole"


@pytest.mark.slow
def test_two_ranks_that_are_killed_go_on_exactly(shipped, whole, tmp_path) -> None:
    path, components = shipped
    run = Run(path, ranks=2, folder=tmp_path / "killed")
    run.start(*OFTEN)
    assert run.process is not None
    try:
        run.when(lambda: run.updates() >= 5 and (run.folder / "latest").exists())
    finally:
        kill_tree(run.process.pid)
        run.process.wait()
    run.goes_on(*OFTEN, updates=12)
    check_same(run.folder, whole, "step_12", components)


@pytest.mark.slow
def test_two_workers_on_ray_are_two_ranks(shipped, whole, tmp_path) -> None:
    pytest.importorskip("ray")
    path, components = shipped
    workers = tmp_path / "workers"
    launch(path, workers, 2, *OFTEN, ray=True)
    assert len(numbers(workers)) == 12
    check_same(workers, whole, "step_12", components)
