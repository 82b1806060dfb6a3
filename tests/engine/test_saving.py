"""When a run is saved, what stays of it, what is best, and what a snapshot must not change."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.run_folder import assert_same, metrics
from helpers.tiny_experiment import STEPS_PER_EPOCH, fixed_schedule

from trainer.checkpoint.folder import find_checkpoint, load_tensors, read_manifest
from trainer.deployment.robot_policy import load_policy
from trainer.engine import checkpoint, snapshot
from trainer.engine.experiment import Experiment
from trainer.offline_trainer import train
from trainer.templates import Callback

Write = Callable[..., Path]


def folders(run: Path) -> list[str]:
    return sorted(p.name for p in run.iterdir() if p.is_dir() and p.name.startswith(("epoch", "step", ".")))


def frozen_encoder(config: dict[str, Any]) -> None:
    config["model"]["component_build_args"] = {"observation_encoder": {"freeze": True}}
    del config["model"]["component_optims"]["observation_encoder"]


def test_frozen_components_are_not_written_again(tiny_experiment: Write) -> None:
    run = train(tiny_experiment(frozen_encoder), ["train.epoch=3"])
    files = [run / f"epoch_{n}/observation_encoder.pt" for n in (1, 2, 3)]
    assert len({f.stat().st_ino for f in files}) == 1
    assert len({(run / f"epoch_{n}/velocity_decoder.pt").stat().st_ino for n in (1, 2, 3)}) == 3
    for gone in (1, 2):
        shutil.rmtree(run / f"epoch_{gone}")
    read_manifest(run / "epoch_3")
    load_policy(run / "epoch_3", device="cpu")
    resumed = train(tiny_experiment(frozen_encoder), ["train.epoch=4"])
    assert_same(load_tensors(files[2]), load_tensors(resumed / "epoch_4/observation_encoder.pt"))


def test_where_there_are_no_links_the_file_is_copied(
    tiny_experiment: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    run = train(tiny_experiment(frozen_encoder))
    for epoch in (1, 2):
        read_manifest(run / f"epoch_{epoch}")


class Meddling(Callback):
    """Writes to frozen weights in the way that no counter notices, as updates of target networks do."""

    def after_epoch(self, experiment: Experiment) -> None:
        for parameter in experiment.models["observation_encoder"].parameters():
            parameter.data.add_(1.0)


def test_frozen_weights_that_change_all_the_same_are_written(
    tiny_experiment: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.offline_trainer.EvaluationCallback", lambda _: Meddling())
    run = train(tiny_experiment(frozen_encoder))
    one, two = (load_tensors(run / f"epoch_{n}/observation_encoder.pt") for n in (1, 2))
    for name, value in one.items():
        assert torch.equal(two[name], value + 1.0)


class Scores(Callback):
    """Measures what it is told."""

    def __init__(self, scores: Mapping[int, float]) -> None:
        self.scores = scores

    def after_epoch(self, experiment: Experiment) -> Mapping[str, float]:
        epoch = experiment.progress.epoch
        return {"score": self.scores[epoch]} if epoch in self.scores else {}


def scored(monkeypatch: pytest.MonkeyPatch, scores: Mapping[int, float]) -> None:
    monkeypatch.setattr("trainer.offline_trainer.EvaluationCallback", lambda _: Scores(scores))


BEST = {"metric": "score", "mode": "max"}


def test_old_checkpoints_go_and_the_best_one_stays(
    tiny_experiment: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(monkeypatch, {1: 0.1, 2: 0.9, 3: float("nan"), 4: 0.5, 6: 0.8})
    path = tiny_experiment(lambda c: c["train"].update(checkpoint={"keep": 2, "best": BEST}))
    run = train(path, ["train.epoch=6"])
    assert folders(run) == ["epoch_2", "epoch_5", "epoch_6"]
    assert find_checkpoint(run / "best") == run / "epoch_2"
    assert find_checkpoint(run) == find_checkpoint(run / "latest") == run / "epoch_6"
    load_policy(run / "best", device="cpu")


def test_the_best_moment_is_saved_when_no_checkpoint_is_due(
    tiny_experiment: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(monkeypatch, {1: 3.0, 2: 1.0, 3: 2.0})
    best = {"best": {"metric": "score", "mode": "min"}, "save_last": False, "keep": 1}
    path = tiny_experiment(lambda c: c["train"].update(checkpoint=best, save_every=10))
    run = train(path, ["train.epoch=3"])
    assert folders(run) == ["epoch_2"]
    assert (run / "best").read_text().startswith("epoch_2\n")


def test_a_resumed_run_knows_the_best_score_so_far(
    tiny_experiment: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(monkeypatch, {1: 0.9, 2: 0.5, 3: 0.7, 4: 1.0})
    path = tiny_experiment(lambda c: c["train"].update(checkpoint={"best": BEST}))
    for epochs, best in ((2, 1), (3, 1), (4, 4)):
        run = train(path, [f"train.epoch={epochs}"])
        assert find_checkpoint(run / "best") == run / f"epoch_{best}"


def test_going_back_lets_best_name_the_best_moment_so_far(
    tiny_experiment: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(monkeypatch, {1: 0.5, 2: 0.4, 3: 0.9})
    path = tiny_experiment(lambda c: c["train"].update(checkpoint={"best": BEST}))
    run = train(path, ["train.epoch=3"])
    assert find_checkpoint(run / "best") == run / "epoch_3"
    scored(monkeypatch, {3: 0.45})
    train(path, ["train.epoch=3", f"train.checkpoint.resume_from={run / 'epoch_2'}"])
    assert find_checkpoint(run / "best") == run / "epoch_1"
    assert json.loads((run / "best").read_text().splitlines()[1])["iteration"] == STEPS_PER_EPOCH


def test_in_another_folder_the_best_moment_is_one_that_is_there(
    tiny_experiment: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(monkeypatch, {1: 0.9, 2: 0.1, 3: 0.5, 4: 0.4})
    path = tiny_experiment(lambda c: c["train"].update(checkpoint={"best": BEST}))
    run = train(path)
    other = tmp_path / "other"
    choices = [f"train.save_dir={other}", f"train.checkpoint.resume_from={run / 'epoch_2'}", "train.epoch=4"]
    train(path, choices)
    assert find_checkpoint(other / "best") == other / "epoch_3"


def test_a_best_metric_that_nothing_measures_is_reported(
    tiny_experiment: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scored(monkeypatch, {1: 0.9})
    wanted = {"metric": "sucess_rate", "mode": "max"}
    run = train(tiny_experiment(lambda c: c["train"].update(checkpoint={"best": wanted})))
    assert not (run / "best").exists()
    said = capsys.readouterr().err
    assert "train.checkpoint.best had no effect: 'sucess_rate' was never measured; what was: score" in said


def test_of_the_checkpoints_within_epochs_the_newest_stays_until_an_epoch_is_saved(
    tiny_experiment: Write,
) -> None:
    path = tiny_experiment(lambda c: c["train"].update(checkpoint={"save_every_n_steps": 4}))
    run = train(path, ["train.epoch=null", f"train.max_steps={STEPS_PER_EPOCH + 9}"])
    assert folders(run) == ["epoch_1", f"step_{STEPS_PER_EPOCH + 9}"]
    assert read_manifest(run / f"step_{STEPS_PER_EPOCH + 9}")["iteration"] == STEPS_PER_EPOCH + 9


def schedule_free(config: dict[str, Any]) -> None:
    optimizer = {"type": "schedule_free_radam", "params": {"lr": 1e-2}}
    config["plugins"].append("experiment_training.components.optimizer.schedule_free_radam")
    config["model"]["component_optims"] = dict.fromkeys(config["model"]["component_optims"], optimizer)
    config["train"]["ema"] = {"enabled": False}


@pytest.mark.parametrize("change", [schedule_free, fixed_schedule])
def test_saving_changes_nothing(tiny_experiment: Write, tmp_path: Path, change: Callable[..., None]) -> None:
    if change is schedule_free:
        pytest.importorskip("schedulefree")
    path = tiny_experiment(change)
    last = ["train.save_every=2", f"train.save_dir={tmp_path / 'last'}"]
    often = ["train.checkpoint.save_every_n_steps=1", f"train.save_dir={tmp_path / 'often'}"]
    runs = [train(path, last), train(path, often)]
    for name in ("velocity_decoder.pt", "velocity_decoder_opt.pt", "observation_encoder.pt"):
        a, b = (load_tensors(run / "epoch_2" / name) for run in runs)
        assert_same(a, b)
    a, b = (load_tensors(run / "epoch_2/training_state.pt") for run in runs)
    for state in (a, b):
        del state["rng"]
    assert_same(a, b)
    assert [m["total"] for m in metrics(runs[0])] == [m["total"] for m in metrics(runs[1])]


def test_a_schedule_free_run_deploys_its_average_and_resumes_exactly(
    tiny_experiment: Write, tmp_path: Path
) -> None:
    schedulefree = pytest.importorskip("schedulefree")
    path = tiny_experiment(schedule_free)
    whole = train(path, [f"train.save_dir={tmp_path / 'whole'}"])
    halves = [f"train.save_dir={tmp_path / 'halves'}"]
    train(path, [*halves, "train.epoch=1"])
    resumed = train(path, halves)
    for name in ("velocity_decoder.pt", "velocity_decoder_opt.pt", "training_state.pt"):
        a, b = (load_tensors(run / "epoch_2" / name) for run in (whole, resumed))
        assert_same(a, b)
    trained = load_tensors(whole / "epoch_2/training_state.pt")["models"]["velocity_decoder"]
    parameters = [torch.nn.Parameter(v.clone()) for v in trained.values()]
    optimizer = schedulefree.RAdamScheduleFree(parameters)
    optimizer.load_state_dict(load_tensors(whole / "epoch_2/velocity_decoder_opt.pt"))
    optimizer.eval()
    deployed = load_tensors(whole / "epoch_2/velocity_decoder.pt")
    for name, parameter in zip(trained, parameters, strict=True):
        assert torch.equal(deployed[name], parameter)
    assert not all(torch.equal(deployed[name], value) for name, value in trained.items())


def test_a_prolonged_run_says_where_its_schedule_now_ends(
    tiny_experiment: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny_experiment()
    train(path)
    assert "schedule" not in capsys.readouterr().err
    run = train(path, ["train.epoch=4"])
    said = capsys.readouterr().err
    assert (
        f"now ends its schedule after {4 * STEPS_PER_EPOCH} updates instead of {2 * STEPS_PER_EPOCH}" in said
    )
    assert metrics(run)[2 * STEPS_PER_EPOCH]["velocity_decoder lr"] > 4e-4
    assert metrics(run)[-1]["velocity_decoder lr"] == 0.0


def test_metrics_are_never_older_than_a_checkpoint(tiny_experiment: Write) -> None:
    seen = []

    class Reading(Callback):
        def after_step(self, experiment: Experiment, metrics: Mapping[str, Any]) -> None:
            experiment.writer.wait()
            latest = experiment.run / "latest"
            if latest.is_file():
                iteration = read_manifest(find_checkpoint(experiment.run))["iteration"]
                lines = (experiment.run / "metrics.jsonl").read_text().splitlines()
                seen.append(
                    len(lines) >= iteration and json.loads(lines[iteration - 1])["step"] == iteration - 1
                )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.offline_trainer.EvaluationCallback", lambda _: Reading())
        train(tiny_experiment(), ["train.log_every_n_steps=1000", "train.checkpoint.save_every_n_steps=3"])
    assert len(seen) > STEPS_PER_EPOCH
    assert all(seen)


def test_what_was_measured_is_on_disk_before_the_checkpoint_counts(
    tiny_experiment: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    monkeypatch.setattr(checkpoint, "fsync_path", lambda path: flushed.append(path.name))
    train(tiny_experiment(lambda c: c["data"].update(validation={"fraction": 0.3})), ["train.epoch=1"])
    assert {"metrics.jsonl", "validations.jsonl"} <= set(flushed)


def test_checkpoints_are_the_same_when_copying_takes_longer_than_the_next_batch(
    tiny_experiment: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(target: torch.Tensor, source: torch.Tensor) -> None:
        for to, piece in zip(target.view(-1).chunk(4), source.reshape(-1).chunk(4), strict=True):
            time.sleep(0.01)
            to.copy_(piece)

    def wide(config: dict[str, Any]) -> None:
        fixed_schedule(config)
        decoder = tmp_path / "models/velocity_decoder.yaml"
        decoder.write_text(decoder.read_text().replace("width: 32", "width: 192"))

    path = tiny_experiment(wide)
    usual = train(path, [f"train.save_dir={tmp_path / 'usual'}"])
    copied = []
    monkeypatch.setattr(snapshot, "copy_tensor", lambda to, source: (copied.append(1), slowly(to, source)))
    slow = train(path, [f"train.save_dir={tmp_path / 'slow'}"])
    assert len(copied) > 8, "nothing was left to copy late, so this tests nothing"
    for name in ("velocity_decoder.pt", "velocity_decoder_opt.pt", "training_state.pt"):
        assert_same(load_tensors(usual / "epoch_1" / name), load_tensors(slow / "epoch_1" / name))
