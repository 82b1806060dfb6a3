"""Taking up a run: what may change, what must not, and what stays of an earlier run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_dataset
from test_training import STEPS_PER_EPOCH, assert_same, metrics, weights

from trainer.config.errors import ConfigError
from trainer.engine.checkpoint import read_manifest
from trainer.engine.deployment import load_policy
from trainer.engine.experiment import Experiment
from trainer.offline_trainer import train
from trainer.templates import Callback

Write = Callable[..., Path]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["data"].update(batch_size=8), r"global batch 8 instead of 16"),
        (lambda c: c["train"].update(gradient_clip_val=2.0), r"\(train\.gradient_clip_val\)"),
        (lambda c: c.update(seed=8), r"\(seed\)"),
    ],
)
def test_another_experiment_does_not_go_on_with_a_run(
    tiny_experiment: Write, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    run = train(tiny_experiment())
    before = sorted((p, p.stat().st_mtime_ns) for p in run.rglob("*"))
    with pytest.raises(ConfigError, match=message):
        train(tiny_experiment(change))
    assert sorted((p, p.stat().st_mtime_ns) for p in run.rglob("*")) == before


def test_a_changed_model_does_not_go_on_with_a_run_and_leaves_it_as_it_is(tiny_experiment: Write) -> None:
    path = tiny_experiment()
    run = train(path)
    kept = (run / "models/velocity_decoder.yaml").read_text()
    decoder = path.parent / "models/velocity_decoder.yaml"
    decoder.write_text(decoder.read_text().replace("width: 32", "width: 48"))
    with pytest.raises(ConfigError, match="the model YAML of 'velocity_decoder'"):
        train(path, ["train.epoch=3"])
    assert (run / "models/velocity_decoder.yaml").read_text() == kept


def test_a_dataset_that_grew_is_another_run(tiny_experiment: Write, tmp_path: Path) -> None:
    path = tiny_experiment()
    train(path)
    larger = write_dataset(tmp_path / "larger", episodes=8)
    with pytest.raises(ConfigError, match=r"data\.datamodule\.params\.root"):
        train(path, [f"data.datamodule.params.root={larger}", "train.epoch=3"])


def test_what_does_not_touch_the_numbers_may_change(tiny_experiment: Write, tmp_path: Path) -> None:
    path = tiny_experiment()
    run = train(path)
    moved = tmp_path / "moved"
    shutil.move(run, moved)
    resumed = train(path, [f"train.save_dir={moved}", "train.project_name=other", "train.epoch=3"])
    assert read_manifest(resumed / "epoch_3")["iteration"] == 3 * STEPS_PER_EPOCH


def test_a_run_that_must_not_be_taken_up_is_moved_aside(tiny_experiment: Write) -> None:
    path = tiny_experiment()
    run = train(path)
    before = weights(run / "epoch_2")
    again = train(path, ["train.checkpoint.resume_from=null"])
    (aside,) = run.parent.glob("run.until-*")
    assert_same(weights(aside / "epoch_2"), before)
    assert_same(weights(again / "epoch_2"), before)
    assert len(metrics(again)) == 2 * STEPS_PER_EPOCH


class DrawingCallback(Callback):
    """Draws from the global generators, as building a policy for an evaluation does."""

    def after_epoch(self, experiment: Experiment) -> None:
        torch.rand(17)
        experiment.deployed_policy()


def test_what_happens_beside_training_does_not_change_it(
    tiny_experiment: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dropout(config: dict[str, Any]) -> None:
        decoder = tmp_path / "models/velocity_decoder.yaml"
        decoder.write_text(decoder.read_text().replace("dropout: 0.0", "dropout: 0.2"))

    path = tiny_experiment(dropout)
    plain = train(path, [f"train.save_dir={tmp_path / 'plain'}"])
    monkeypatch.setattr("trainer.offline_trainer.EvaluationCallback", lambda _: DrawingCallback())
    watched = train(path, [f"train.save_dir={tmp_path / 'watched'}"])
    assert [m["total"] for m in metrics(plain)] == [m["total"] for m in metrics(watched)]


def test_time_adds_up_and_evaluations_are_cut_back(tiny_experiment: Write) -> None:
    path = tiny_experiment()
    run = train(path, ["train.epoch=1"])
    first = json.loads((run / "run.json").read_text())
    lines = [{"step": STEPS_PER_EPOCH, "epoch": 1}, {"step": 2 * STEPS_PER_EPOCH, "epoch": 2}]
    (run / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    train(path)
    second = json.loads((run / "run.json").read_text())
    assert second["train_seconds"] > first["train_seconds"]
    assert second["started"] == first["started"]
    assert second["wandb_id"] == first["wandb_id"]
    assert json.loads((run / "evaluations.jsonl").read_text())["epoch"] == 1
    train(path)
    assert json.loads((run / "run.json").read_text()) == second


def test_a_writer_killed_between_its_renames_loses_nothing(tiny_experiment: Write) -> None:
    path = tiny_experiment()
    run = train(path)
    (run / "epoch_2").rename(run / "epoch_2.replaced")
    load_policy(run, device="cpu")
    train(path, ["train.epoch=3"])
    assert read_manifest(run / "epoch_3")["epoch"] == 3


def test_a_policy_is_found_by_its_project_wherever_it_is_loaded(
    tiny_experiment: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    (tmp_path / "project_plugin.py").write_text("loaded = True\n")
    run = train(tiny_experiment(lambda c: c["plugins"].append("project_plugin")))
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(tmp_path)])
    monkeypatch.delitem(sys.modules, "project_plugin")
    load_policy(run, device="cpu")
    assert "project_plugin" in sys.modules
