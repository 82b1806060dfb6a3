"""Taking up a run: what may change, what must not, and what stays of an earlier run."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.run_folder import assert_same, metrics, weights
from helpers.tiny_experiment import STEPS_PER_EPOCH, write_dataset

from trainer.checkpoint.folder import CheckpointError, find_checkpoint, read_manifest
from trainer.checkpoint.lock import LOCK, only_writer
from trainer.config.errors import ConfigError
from trainer.config.schemas import ExperimentConfig
from trainer.deployment.robot_policy import load_policy
from trainer.engine.experiment import Experiment
from trainer.engine.resume import may_change
from trainer.offline_trainer import attempt, train, way_on
from trainer.pages.report import build_report
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
    other = ["train.project_name=other", "data.frame_memory=64", "train.epoch=3"]
    resumed = train(path, [f"train.save_dir={moved}", *other])
    assert read_manifest(resumed / "epoch_3")["iteration"] == 3 * STEPS_PER_EPOCH


def test_what_may_change_is_found_in_sections_that_may_be_missing() -> None:
    assert {path for path in may_change(ExperimentConfig) if path.startswith("online")} == {
        "online.workers",
        "online.replay",
        "online.publish",
        "online.placement",
    }
    assert not any(path.startswith("model.") for path in may_change(ExperimentConfig))


def test_that_a_run_was_taken_up_with_other_settings_stays_known(tiny_experiment: Write) -> None:
    path = tiny_experiment()
    run = train(path, ["train.epoch=1"])
    for epochs in (2, 2, 4):
        train(path, [f"train.epoch={epochs}", "train.project_name=longer"])
    found = [
        (one["iteration"], {c["setting"]: (c["before"], c["after"]) for c in one["changes"]})
        for one in json.loads((run / "run.json").read_text())["taken_up"]
    ]
    renamed = {"train.project_name": ("tiny", "longer")}
    assert found == [
        (STEPS_PER_EPOCH, {"train.epoch": (1, 2), **renamed}),
        (2 * STEPS_PER_EPOCH, {"train.epoch": (2, 4)}),
    ]
    page = " ".join(re.sub("<.*?>", "", build_report(run).read_text()).split())
    assert "Taken up after step 22 with other settings: train.epoch: 4 instead of 2." in page
    assert "train.project_name: &#34;longer&#34; instead of &#34;tiny&#34;" in page


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("run.json", '{"name": "ti', "run.json is damaged; move it away to go on without what it says"),
        ("run.json", "[1, 2]", "run.json is damaged"),
        ("run.json", None, "run.json is damaged"),
        ("metrics.jsonl", None, "metrics.jsonl cannot be read: Is a directory"),
        (".lock", None, ".lock is a folder, where a file is expected"),
        ("models", "", "models is a file, where a folder is expected"),
    ],
)
def test_what_is_damaged_in_a_run_folder_is_said(
    tiny_experiment: Write, name: str, content: str | None, said: str
) -> None:
    path = tiny_experiment()
    place = train(path, ["train.epoch=1"]) / name
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    place.mkdir() if content is None else place.write_text(content)
    outcome = attempt(path)
    assert outcome.code == 2
    assert f"Error: {place}" in outcome.text
    assert said in outcome.text
    assert "\n" not in outcome.text


def test_a_run_that_must_not_be_taken_up_is_moved_aside(tiny_experiment: Write) -> None:
    path = tiny_experiment()
    run = train(path)
    before = weights(run / "epoch_2")
    again = train(path, ["train.checkpoint.resume_from=null"])
    (aside,) = run.parent.glob("run.until-*")
    assert_same(weights(aside / "epoch_2"), before)
    assert_same(weights(again / "epoch_2"), before)
    assert len(metrics(again)) == 2 * STEPS_PER_EPOCH


def test_a_run_that_begins_anew_in_the_place_of_another_is_locked(tiny_experiment: Write) -> None:
    path = tiny_experiment()
    run = train(path)
    tried: list[bool] = []

    class Rival(Callback):
        def after_epoch(self, experiment: Experiment) -> None:
            with (experiment.run / LOCK).open() as file, contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                tried.append(True)
            tried.append(False)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.offline_trainer.EvaluationCallback", lambda _: Rival())
        train(path, ["train.checkpoint.resume_from=null"])
    assert tried == [False, False]
    assert (run / LOCK).exists()


def test_a_process_that_outlives_training_does_not_keep_the_lock(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").touch()
    with only_writer(tmp_path):
        descriptors = {int(p.name): p for p in Path("/proc/self/fd").iterdir() if p.is_symlink()}
        (held,) = (n for n, p in descriptors.items() if os.path.realpath(p) == str(tmp_path / LOCK))
        inherited = os.dup(held)  # as a forked loader worker has it
    try:
        with (tmp_path / LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(inherited)


def test_a_pointer_that_is_a_folder_is_no_new_run(tiny_experiment: Write) -> None:
    path = tiny_experiment()
    run = train(path)
    (run / "latest").unlink()
    (run / "latest").mkdir()
    outcome = attempt(path, ["train.epoch=3"])
    assert f"{run / 'latest'} is a folder; it should be a file that names a checkpoint" in outcome.text
    assert "the newest whole checkpoint is epoch_2" in outcome.text
    assert (run / "epoch_2").exists()


def test_going_on_from_an_older_checkpoint_sets_aside_what_came_after(
    tiny_experiment: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny_experiment()
    run = train(path, ["train.epoch=6"])
    (run / "best").write_text(f'epoch_5\n{{"iteration": {5 * STEPS_PER_EPOCH}}}\n')
    older = [f"train.checkpoint.resume_from={run / 'epoch_2'}", "train.checkpoint.keep=1", "train.epoch=4"]
    train(path, older)
    (aside,) = run.glob("set_aside-*")
    assert f"What {run} had saved beyond epoch_2 is now in {aside}." in capsys.readouterr().err
    assert sorted(p.name for p in aside.iterdir()) == ["epoch_3", "epoch_4", "epoch_5", "epoch_6"]
    assert read_manifest(aside / "epoch_6")["iteration"] == 6 * STEPS_PER_EPOCH
    assert sorted(p.name for p in run.glob("epoch_*")) == ["epoch_4"]
    assert not (run / "best").exists()
    train(path, [f"train.checkpoint.resume_from={run / 'epoch_4'}", "train.epoch=4"])
    assert list(run.glob("set_aside-*")) == [aside], "nothing lay beyond"


def test_until_it_saves_a_run_that_went_back_can_be_taken_up_where_it_went_back_to(
    tiny_experiment: Write,
) -> None:
    path = tiny_experiment()
    run = train(path)

    class Failing(Callback):
        def before_training(self, experiment: Experiment) -> None:
            raise RuntimeError("gone")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.offline_trainer.EvaluationCallback", lambda _: Failing())
        with pytest.raises(RuntimeError, match="gone"):
            train(path, [f"train.checkpoint.resume_from={run / 'epoch_1'}"])
    assert find_checkpoint(run) == run / "epoch_1"
    assert len(metrics(train(path))) == 2 * STEPS_PER_EPOCH


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("choice", ["null", "epoch_1"])
def test_ranks_that_are_started_again_go_on_with_what_their_launch_began(
    tiny_experiment: Write, monkeypatch: pytest.MonkeyPatch, choice: str, again: bool
) -> None:
    path = tiny_experiment()
    run = train(path)
    asked = "null" if choice == "null" else str(run / choice)
    overrides = [f"train.checkpoint.resume_from={asked}", "train.epoch=4"]
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "one")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    train(path, [*overrides, "train.epoch=3"])
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "one" if again else "another")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    begun: list[int] = []

    class Noting(Callback):
        def before_training(self, experiment: Experiment) -> None:
            begun.append(experiment.progress.epoch)

    monkeypatch.setattr("trainer.offline_trainer.EvaluationCallback", lambda _: Noting())
    train(path, overrides)
    assert begun == [3 if again else 0 if choice == "null" else 1]


def test_the_way_on_is_the_one_that_goes_on(tiny_experiment: Write) -> None:
    path, key = tiny_experiment(), "train.checkpoint.resume_from"
    for overrides in ([], [f"{key}=auto"]):
        assert way_on(path, overrides, "there") == "The same command goes on from there"
    for asked in ("null", "runs/a/epoch_1"):
        said = way_on(path, [f"{key}={asked}"], "there")
        assert said == f"The same command with --set {key}=auto goes on from there"


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


def test_a_plugin_of_ones_own_is_named_by_who_opens_the_checkpoint(
    tiny_experiment: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing in a checkpoint decides what code runs."""
    import sys

    (tmp_path / "project_plugin.py").write_text("loaded = True\n")
    run = train(tiny_experiment(lambda c: c["plugins"].append("project_plugin")))
    monkeypatch.delitem(sys.modules, "project_plugin")
    with pytest.raises(CheckpointError, match="is not trusted"):
        load_policy(run, device="cpu")
    assert "project_plugin" not in sys.modules
    load_policy(run, device="cpu", trust=["project_plugin"])
    assert "project_plugin" in sys.modules
