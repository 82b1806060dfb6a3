"""Callbacks of the user's own: when they are called, what they see, and that a restart changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.run_folder import metrics
from helpers.tiny_experiment import fixed_schedule

from trainer.offline_trainer import train

Write = Callable[..., Path]

PLUGIN = """
import json
from trainer.registry import CALLBACK_REGISTRY
from trainer.templates import Callback

@CALLBACK_REGISTRY.register("diary")
class Diary(Callback):
    def __init__(self, file: str):
        self.file = file
        self.steps = 0

    def write(self, what, experiment):
        with open(self.file, "a") as file:
            file.write(json.dumps([what, experiment.progress.iteration, self.steps]) + "\\n")

    def before_training(self, experiment):
        self.write("before_training", experiment)

    def after_step(self, experiment, metrics):
        assert "total" in metrics
        self.steps += 1

    def after_epoch(self, experiment):
        self.write("after_epoch", experiment)
        return {"steps": self.steps}

    def after_training(self, experiment):
        self.write("after_training", experiment)

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]
"""


@pytest.fixture
def with_diary(tiny_experiment: Write, tmp_path: Path) -> Path:
    (tmp_path / "diary_plugin.py").write_text(PLUGIN)

    def change(config: dict[str, Any]) -> None:
        fixed_schedule(config)
        config["plugins"].append("diary_plugin")
        config["train"]["callbacks"] = [{"type": "diary", "params": {"file": str(tmp_path / "diary.jsonl")}}]
        config["train"]["checkpoint"] = {"keep": 1, "best": {"metric": "steps", "mode": "min"}}

    return tiny_experiment(change)


def test_they_are_called_in_their_time_and_keep_their_state(with_diary: Path) -> None:
    train(with_diary)
    run = train(with_diary, ["train.epoch=3"])
    diary = [json.loads(line) for line in (with_diary.parent / "diary.jsonl").read_text().splitlines()]
    assert diary == [
        ["before_training", 0, 0],
        ["after_epoch", 11, 11],
        ["after_epoch", 22, 22],
        ["after_training", 22, 22],
        ["before_training", 22, 22],
        ["after_epoch", 33, 33],
        ["after_training", 33, 33],
    ]
    assert sorted(p.name for p in run.glob("epoch_*")) == ["epoch_1", "epoch_3"], "the best, and the newest"


STOPPING = """
import torch
from trainer.registry import CALLBACK_REGISTRY
from trainer.templates import Callback

@CALLBACK_REGISTRY.register("drawing")
class Drawing(Callback):
    def before_training(self, experiment):
        torch.rand(13)

    def after_epoch(self, experiment):
        torch.rand(7)

@CALLBACK_REGISTRY.register("stopping")
class Stopping(Callback):
    def after_step(self, experiment, metrics):
        if experiment.progress.iteration == 4:
            experiment.stop_reason = "enough"
"""


def with_plugin(tiny_experiment: Write, tmp_path: Path, kind: str) -> Path:
    (tmp_path / "stopping_plugin.py").write_text(STOPPING)

    def change(config: dict[str, Any]) -> None:
        fixed_schedule(config)
        config["plugins"].append("stopping_plugin")
        config["train"]["callbacks"] = [{"type": kind}]
        decoder = tmp_path / "models/velocity_decoder.yaml"
        decoder.write_text(decoder.read_text().replace("dropout: 0.0", "dropout: 0.2"))

    return tiny_experiment(change)


def test_what_they_draw_changes_nothing_also_of_a_run_that_is_taken_up(
    tiny_experiment: Write, tmp_path: Path
) -> None:
    path = with_plugin(tiny_experiment, tmp_path, "drawing")
    whole = train(path, [f"train.save_dir={tmp_path / 'whole'}"])
    halves = [f"train.save_dir={tmp_path / 'halves'}"]
    train(path, [*halves, "train.epoch=1"])
    run = train(path, halves)
    assert [m["total"] for m in metrics(run)] == [m["total"] for m in metrics(whole)]


def test_a_run_that_is_to_end_after_the_epoch_still_saves_within_it(
    tiny_experiment: Write, tmp_path: Path
) -> None:
    path = with_plugin(tiny_experiment, tmp_path, "stopping")
    run = train(path, ["train.checkpoint.save_every_n_steps=5"])
    assert len(metrics(run)) == 11
    assert (run / "latest").read_text() == "epoch_1\n"


def test_states_find_their_callbacks_in_another_order(with_diary: Path) -> None:
    train(with_diary, ["train.epoch=1"])
    config = yaml.safe_load(with_diary.read_text())
    config["train"]["callbacks"].insert(0, {"type": "early_stopping", "params": {"metric": "steps"}})
    with_diary.write_text(yaml.safe_dump(config, sort_keys=False))
    train(with_diary)
    diary = [json.loads(line) for line in (with_diary.parent / "diary.jsonl").read_text().splitlines()]
    assert ["before_training", 11, 11] in diary
