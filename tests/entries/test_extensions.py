"""The extensions in `examples/extensions`, and the minimal config, train as a user would have them train."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers.run_folder import metrics, weights

from examples.extensions.second_source import MixedBatches, SampleBuffer, mixed_with
from trainer.config.errors import ConfigError
from trainer.data.batch_path import BatchPath
from trainer.data.loader import BatchLoader
from trainer.data.normalization import Normalizer
from trainer.deployment.robot_policy import load_policy
from trainer.offline_trainer import train

HEAD = {
    "schema_version": 1,
    "model": {
        "graph": {
            "inputs": ["condition"],
            "modules": {"head": {"_type_": "nn.Linear", "in_features": 16, "out_features": 8}},
            "nodes": [
                {"name": "flat", "call": "module:head", "args": ["$condition"]},
                {"name": "chunk", "call": "op:reshape", "args": ["$flat"], "kwargs": {"shape": [-1, 4, 2]}},
            ],
            "outputs": ["chunk"],
        }
    },
}


def regression(config: dict[str, Any]) -> None:
    config["plugins"] += ["examples.extensions.state_regression", "experiment_training.components.loss.l2"]
    config["train"]["trainer"] = {"type": "state_regression_trainer", "params": {"n_action_steps": 1}}
    config["train"]["loss"] = {"type": "l2_loss", "params": {"reduction": "mean"}}
    config["train"]["epoch"] = 30
    config["train"]["save_every"] = 30
    models, optimizers = (config["model"][k] for k in ("component_config_paths", "component_optims"))
    for section in (models, optimizers):
        section["action_head"] = section.pop("velocity_decoder")
    models["action_head"] = "models/action_head.yaml"
    for optimizer in optimizers.values():
        optimizer["params"]["peak_lr"] = 1e-2


def test_it_learns_the_linear_relation_of_the_small_dataset(
    tiny_experiment: Callable[..., Path], tmp_path: Path
) -> None:
    path = tiny_experiment(regression)
    (tmp_path / "models/action_head.yaml").write_text(yaml.safe_dump(HEAD))
    run = train(path)
    losses = [json.loads(line)["total"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert np.mean(losses[-11:]) < 0.3 * np.mean(losses[:3])
    policy = load_policy(run, device="cpu")
    assert policy.act({"observation.state": np.zeros(5, np.float32)}).shape == (2,)


def test_the_minimal_config_learns_to_reach_the_goal(tmp_path: Path) -> None:
    run = train("examples/configs/minimal.yaml", [f"train.save_dir={tmp_path / 'run'}", "device=cpu"])
    policy = load_policy(run, device="cpu")
    rng = np.random.default_rng(1)
    points, goals = rng.uniform(-0.9, 0.9, size=(2, 20, 2))
    before = np.linalg.norm(goals - points, axis=1)
    policy.reset(list(range(20)))
    for _ in range(40):
        points = points + policy.act({"observation.state": np.concatenate([points, goals], axis=1)})
    after = np.linalg.norm(goals - points, axis=1)
    assert np.mean(before) > 0.5
    assert np.max(after) < 0.15


def test_a_parameter_of_the_sample_data_is_checked(tmp_path: Path) -> None:
    wrong = ["data.datamodule.params.episode=3", "data.datamodule.params.frames=many"]
    with pytest.raises(ConfigError) as caught:
        train("examples/configs/minimal.yaml", wrong)
    said = str(caught.value)
    assert "data.datamodule.params.episode: unknown key; did you mean 'episodes'?" in said
    assert "data.datamodule.params.frames: input should be a valid integer" in said


def test_the_reduction_of_the_l2_loss_arrives() -> None:
    from experiment_training.components.loss.l2 import L2LossFactory

    prediction, target = torch.arange(6.0), torch.zeros(6)
    assert L2LossFactory().build()(prediction, target).item() == pytest.approx(55.0)
    assert L2LossFactory("mean").build()(prediction, target).item() == pytest.approx(55.0 / 6)


def test_the_callback_measures_distances(tiny_experiment: Callable[..., Path]) -> None:
    def change(config: dict[str, Any]) -> None:
        config["plugins"].append("examples.extensions.weight_norms")
        config["train"]["callbacks"] = [
            {"type": "distance_travelled", "params": {"components": ["velocity_decoder"]}}
        ]
        config["train"]["ema"] = {"enabled": False}

    run = train(tiny_experiment(change))
    state = torch.load(run / "epoch_2/training_state.pt", weights_only=True)
    start = state["callbacks"][-1][1]["start"]["velocity_decoder"]
    now = torch.cat([value.reshape(-1) for value in weights(run / "epoch_2").values()])
    lines = [json.loads(line) for line in (run / "distances.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert lines[1]["distance/velocity_decoder"] == pytest.approx(float((now - start).norm()), rel=1e-5)


def test_the_logger_has_every_number_once_after_an_interruption(tiny_experiment: Callable[..., Path]) -> None:
    def change(config: dict[str, Any]) -> None:
        config["plugins"].append("examples.extensions.csv_logger")
        config["train"]["loggers"] = [{"type": "csv", "params": {"file": "numbers.csv"}}]

    path = tiny_experiment(change)
    run = train(path, ["train.max_steps=15"])
    with (run / "numbers.csv").open("a") as file:  # what a process logged before it was killed
        file.write("15,total,99.0\n16,total,99.0\n")
    train(path)
    lines = [line.split(",") for line in (run / "numbers.csv").read_text().splitlines()]
    assert lines[0] == ["step", "name", "value"]
    totals = {int(step): float(value) for step, name, value in lines[1:] if name == "total"}
    assert totals == {number: line["total"] for number, line in enumerate(metrics(run))}
    assert len([line for line in lines if line[1] == "total"]) == len(totals) == 22


@pytest.fixture
def demonstrations(tmp_path: Path) -> dict[str, np.ndarray]:
    """Five episodes; the action is a linear function of the state, and the last two weigh nothing."""
    rng = np.random.default_rng(0)
    state = np.cumsum(rng.normal(size=(150, 5)), axis=0)
    episode = np.repeat(np.arange(5), 30)
    data = {
        "state": state,
        "action": state @ rng.normal(size=(5, 2)),
        "episode": episode,
        "weight": np.array([1.0, 2.0, 3.0, 0.0, 0.0])[episode],
    }
    np.savez(tmp_path / "demonstrations.npz", **data)
    return data


def weighted(config: dict[str, Any]) -> None:
    config["plugins"].append("examples.extensions.weighted_memory")
    params = {"path": "demonstrations.npz", "action_horizon": 4, "obs_history": 2}
    config["data"]["datamodule"] = {"type": "weighted_memory", "params": params}


def test_the_weighted_dataset_trains_validates_and_is_deployed(
    tiny_experiment: Callable[..., Path], demonstrations: dict[str, np.ndarray]
) -> None:
    def change(config: dict[str, Any]) -> None:
        weighted(config)
        config["data"]["validation"] = {"episodes": [1, 4]}
        config["train"]["epoch"] = 3

    run = train(tiny_experiment(change))
    facts = json.loads((run / "dataset.json").read_text())
    assert (facts["episodes"], facts["frames"]) == (3, 90)
    # Episode 1 has two of the six parts of the weight: some 100 of 150 draws are left.
    steps = json.loads((run / "run.json").read_text())["steps_per_epoch"]
    assert steps == pytest.approx(100 / 16, abs=1)
    assert 0 < np.mean([line["padded actions"] for line in metrics(run)]) < 0.2
    measured = [json.loads(line) for line in (run / "validations.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in measured] == [1, 2, 3]
    policy = load_policy(run, device="cpu")
    assert policy.act({"observation.state": np.zeros(5, np.float32)}).shape == (2,)


def test_weights_say_how_often_a_frame_comes(demonstrations: dict[str, np.ndarray], tmp_path: Path) -> None:
    from examples.extensions.weighted_memory import WeightedMemoryFactory

    params = {"path": "demonstrations.npz", "action_horizon": 4}
    dataset = WeightedMemoryFactory().build({"search_paths": [tmp_path]}, params)["dataset"]
    drawn = np.concatenate([dataset.epoch_order(1, epoch) for epoch in range(200)])
    shares = np.bincount(demonstrations["episode"][drawn], minlength=5) / len(drawn)
    np.testing.assert_allclose(shares, [1 / 6, 2 / 6, 3 / 6, 0, 0], atol=0.01)
    assert set(drawn) == set(range(90))
    batch = dataset.__getitems__([27])
    np.testing.assert_allclose(batch["action"][0, :3], demonstrations["action"][27:30], rtol=1e-6)
    assert batch["action_is_pad"].tolist() == [[False, False, False, True]]


def test_a_weighted_file_that_cannot_be_used(
    tiny_experiment: Callable[..., Path], demonstrations: dict[str, np.ndarray], tmp_path: Path
) -> None:
    path = tiny_experiment(weighted)
    np.savez(tmp_path / "demonstrations.npz", **{**demonstrations, "weight": np.zeros(150)})
    with pytest.raises(ConfigError, match=r"params\.path: .* a weight is negative or no number, or"):
        train(path)
    np.savez(tmp_path / "demonstrations.npz", state=demonstrations["state"])
    with pytest.raises(ConfigError, match="has no array 'action'"):
        train(path)


@pytest.fixture
def loader(demonstrations: dict[str, np.ndarray], tmp_path: Path) -> Callable[..., BatchLoader]:
    from examples.extensions.weighted_memory import WeightedMemoryFactory

    params = {"path": "demonstrations.npz", "action_horizon": 4}
    built = WeightedMemoryFactory().build({"search_paths": [tmp_path]}, params)
    path = BatchPath(Normalizer(built["norm_stats"]))
    return lambda: BatchLoader(built["dataset"], batch_size=8, path=path, micro_batches=2, seed=3)


@pytest.fixture
def recorded() -> SampleBuffer:
    """Forty samples that a robot made, of which thirty are kept."""
    buffer = SampleBuffer(capacity=30)
    for begin in range(0, 40, 10):
        state = torch.arange(begin, begin + 10, dtype=torch.float32)
        samples = {"observation.state": state.view(10, 1, 1).expand(10, 1, 5), "action": torch.ones(10, 4, 2)}
        buffer.add(samples)
    return buffer


def test_a_second_source_joins_the_batches_of_the_first(
    loader: Callable[..., BatchLoader], recorded: SampleBuffer
) -> None:
    path = loader().path
    source = MixedBatches(loader(), path, recorded.sample, 3, rank=1, world_size=2)
    assert (source.steps_per_epoch, source.micro_batches) == (9, 2)
    assert source.samples_per_update == 16 + 2 * 3 * 2
    mixed, alone = list(source.epoch(1, start_step=2)), list(loader().epoch(1, start_step=2))
    assert len(mixed) == len(alone) == 14
    assert set(mixed[0]) == {"observation.state", "action", "observation.proprio_state"}
    fresh = set()
    for both, first in zip(mixed, alone, strict=True):
        for key in both:
            assert both[key].shape[0] == 11
            assert torch.equal(both[key][:8], first[key])
        rows = range(10, 40)  # of the forty the newest thirty
        ready = path({"observation.state": torch.tensor(rows).float().view(30, 1, 1).expand(30, 1, 5)})
        found = (both["observation.state"][8:, None] == ready["observation.state"]).all(-1).all(-1)
        assert found.sum(1).tolist() == [1, 1, 1]
        fresh |= set(found.nonzero()[:, 1].tolist())
    assert len(fresh) > 15
    assert source.wait_seconds >= source.demonstrations.wait_seconds > 0
    example, expected = source.example(2), loader().example(2)
    assert all(torch.equal(example[key], expected[key]) for key in expected)


def test_a_second_source_goes_on_where_a_checkpoint_left_it(
    loader: Callable[..., BatchLoader], recorded: SampleBuffer
) -> None:
    class Rank:
        rank, world_size = 0, 1

    make = mixed_with(recorded.sample, count=3, seed=5)
    whole = list(make(loader(), BatchPath(), Rank()).epoch(0))
    first, second = (make(loader(), BatchPath(), Rank()) for _ in range(2))
    batches = first.epoch(0)
    before = [next(batches) for _ in range(8)]
    second.load_state_dict(first.state_dict())
    resumed = [*before, *second.epoch(0, start_step=4)]
    assert len(resumed) == len(whole)
    assert all(torch.equal(a["action"], b["action"]) for a, b in zip(resumed, whole, strict=True))
    states = [[batch["observation.state"] for batch in run] for run in (resumed, whole)]
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))
    with pytest.raises(ValueError, match="holds drawn, demonstrations of another source of batches"):
        loader().load_state_dict(first.state_dict())
    with pytest.raises(ValueError, match="the buffer is empty"):
        SampleBuffer(5).sample(1, np.random.default_rng(0))


def test_a_run_on_two_sources_learns_from_both_and_resumes_exactly(
    tiny_experiment: Callable[..., Path], tmp_path: Path
) -> None:
    """The second source alone holds the actions 3, which no demonstration has."""

    def short(config: dict[str, Any]) -> None:
        regression(config)
        config["train"]["epoch"] = 6
        config["train"]["save_every"] = 20
        for optimizer in config["model"]["component_optims"].values():
            optimizer["params"] = {"peak_lr": 2e-2, "warmup_steps": 2, "total_steps": 66}

    path = tiny_experiment(short)
    (tmp_path / "models/action_head.yaml").write_text(yaml.safe_dump(HEAD))
    buffer = SampleBuffer(capacity=40)
    state = torch.full((40, 2, 5), 2.0)
    buffer.add({"observation.state": state, "action": torch.full((40, 4, 2), 3.0)})
    batches = mixed_with(buffer.sample, count=16, seed=2)
    whole = train(path, [f"train.save_dir={tmp_path / 'whole'}"], batches=batches)
    alone = train(path, [f"train.save_dir={tmp_path / 'alone'}"])
    robots = [load_policy(run, "cpu") for run in (whole, alone)]
    there = {"observation.state": np.full(5, 2.0, np.float32)}
    far = [float(np.abs(robot.act(there) - 3.0).mean()) for robot in robots]
    assert far[0] < 0.6 * far[1]

    resumed = tmp_path / "resumed"
    for change in (["train.max_steps=17", "train.epoch=null"], []):
        train(path, [f"train.save_dir={resumed}", *change], batches=batches)
    ours, theirs = ([line["total"] for line in metrics(run)] for run in (resumed, whole))
    assert ours == theirs


def test_the_code_of_the_page_on_extending_trains(
    tiny_experiment: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs/extending.md").read_text(encoding="utf-8")
    (tmp_path / "from_the_page.py").write_text("\n\n".join(re.findall(r"```python\n(.*?)```", page, re.S)))
    monkeypatch.syspath_prepend(tmp_path)
    found = {}
    for name in ("noisy_regression_trainer", "head_first_trainer"):

        def short(config: dict[str, Any], name: str = name) -> None:
            regression(config)
            config["plugins"].append("from_the_page")
            config["train"] |= {"trainer": {"type": name, "params": {"n_action_steps": 2}}, "epoch": 4}
            config["train"] |= {"loss": None, "save_dir": str(tmp_path / name)}

        path = tiny_experiment(short)
        (tmp_path / "models/action_head.yaml").write_text(yaml.safe_dump(HEAD))
        lines = found[name] = metrics(train(path))
        assert np.mean([line["total"] for line in lines[-5:]]) < np.mean(
            [line["total"] for line in lines[:5]]
        )
        action = load_policy(tmp_path / name, "cpu").act({"observation.state": np.zeros(5, np.float32)})
        assert action.shape == (2,)
    padded = [line["padded"] for line in found["head_first_trainer"]]
    assert sum(padded) > 0
    assert all(number == int(number) for number in padded)
