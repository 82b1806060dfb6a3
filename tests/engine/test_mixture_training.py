"""A policy trained on several datasets at once, and used as the robot of each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.runs import launch
from helpers.tiny_experiment import write_dataset

from trainer.config.errors import ConfigError
from trainer.deployment.robot_policy import load_policy
from trainer.offline_trainer import train

PLUGIN = "experiment_training.components.dataloader.mixture"
Write = Callable[..., Path]


def mixed(second: Path, **change: Any) -> Callable[[dict[str, Any]], None]:
    """Return what makes the tiny experiment one on two datasets, one part to three."""

    def edit(config: dict[str, Any]) -> None:
        params = config["data"]["datamodule"]["params"]
        del params["repo_id"], params["task_name"]
        entry = {"type": "lerobot_dataset_factory", "params": params, "name": "one", "weight": 1}
        other = {**entry, "params": {**params, "root": str(second)}, "name": "two", "weight": 3, **change}
        config["plugins"].append(PLUGIN)
        config["data"]["datamodule"] = {
            "type": "mixture_dataset_factory",
            "params": {"task_name": "both", "datasets": [entry, other]},
        }

    return edit


def test_the_mistakes_of_all_datasets_come_together_each_at_its_place(
    tiny_experiment: Write, second: Path
) -> None:
    def spoil(config: dict[str, Any]) -> None:
        mixed(second)(config)
        one, two = config["data"]["datamodule"]["params"]["datasets"]
        one["params"] = {**one["params"], "root": "gone", "action_horizn": 3, "episodes": 5}
        two["params"] = {**two["params"], "action_horizon": 1000}

    path = tiny_experiment(spoil)
    lines = path.read_text().splitlines()
    with pytest.raises(ConfigError) as caught:
        train(path)
    place = "data.datamodule.params.datasets"
    assert [one.error_path for one in caught.value.issues] == [
        f"{place}[0].params.action_horizn",
        f"{place}[0].params.episodes",
        f"{place}[1].params.action_horizon",
    ]
    for one, text in zip(caught.value.issues, ("action_horizn: 3", "episodes: 5", "1000"), strict=True):
        assert one.location is not None
        assert text in lines[one.location.line - 1]


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("second") / "data", episodes=3, frames=40)


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_mixture_is_trained_and_deployed(tiny_experiment: Write, second: Path) -> None:
    run = train(tiny_experiment(mixed(second)))
    lines = metrics(run)
    shares = np.array([[line["share one"], line["share two"]] for line in lines])
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, rtol=1e-6)
    assert shares[:, 1].mean() == pytest.approx(0.75, abs=0.06)
    facts = json.loads((run / "dataset.json").read_text())
    assert [one["name"] for one in facts["datasets"]] == ["one", "two"]
    # A robot is that of the first dataset, unless another is named.
    measured = {"observation.state": np.ones(5, np.float32)}
    default, one, two = (load_policy(run, "cpu", dataset=name) for name in (None, "one", "two"))
    assert np.array_equal(default.act(measured), one.act(measured))
    assert not np.array_equal(one.act(measured), two.act(measured))
    with pytest.raises(ValueError, match="there is no dataset 'three' in these statistics"):
        load_policy(run, "cpu", dataset="three")


def test_a_run_on_a_mixture_is_taken_up_where_it_stopped(
    tiny_experiment: Write, second: Path, tmp_path: Path
) -> None:
    path = tiny_experiment(mixed(second))
    whole = train(path, [f"train.save_dir={tmp_path / 'whole'}"])
    parts = [f"train.save_dir={tmp_path / 'parts'}"]
    train(path, [*parts, "train.epoch=1"])
    resumed = train(path, parts)
    totals = [[(m["share two"], m["total"]) for m in metrics(run)] for run in (whole, resumed)]
    # The learning-rate schedule knows the length of a run; which samples are drawn does not.
    assert [share for share, _ in totals[0]] == [share for share, _ in totals[1]]


def test_a_mistake_in_an_entry_is_placed_at_its_line(tiny_experiment: Write, second: Path) -> None:
    path = tiny_experiment(mixed(second, weight="much"))
    line = next(i for i, text in enumerate(path.read_text().splitlines(), 1) if "weight: much" in text)
    with pytest.raises(ValueError, match=rf"{path.name}:{line}:\d+: data\.datamodule\.params\.datasets"):
        train(path)


@pytest.mark.slow
def test_two_ranks_draw_the_mixture_of_one(tiny_experiment: Write, second: Path, tmp_path: Path) -> None:
    path = tiny_experiment(mixed(second))
    one = train(path, [f"train.save_dir={tmp_path / 'one'}"])
    launch(path, tmp_path / "two", 2, "data.batch_size=8")
    for a, b in zip(metrics(one), metrics(tmp_path / "two"), strict=True):
        assert a["share two"] == pytest.approx(b["share two"])
        assert a["total"] == pytest.approx(b["total"], rel=1e-5)
