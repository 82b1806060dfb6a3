"""When a run is saved, what stays of it, what is best, and what a snapshot must not change."""

from __future__ import annotations

import copy
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.run_folder import assert_same, metrics
from helpers.tiny_experiment import STEPS_PER_EPOCH, fixed_schedule
from torch import nn

from trainer.checkpoint.folder import find_checkpoint, load_tensors, read_manifest
from trainer.data.batches import Batches
from trainer.deployment.robot_policy import load_policy
from trainer.engine.experiment import Experiment
from trainer.engine.saving import deployed_in_place
from trainer.offline_trainer import attempt, train
from trainer.registry import LOGGER_REGISTRY
from trainer.templates import Callback, RunIdentity

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


BEST = {"metric": "score", "mode": "max"}


def test_old_checkpoints_go_and_the_best_one_stays(
    tiny_experiment: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = Scores({1: 0.1, 2: 0.9, 3: float("nan"), 4: 0.5, 6: 0.8})
    path = tiny_experiment(lambda c: c["train"].update(checkpoint={"keep": 2, "best": BEST}))
    run = train(path, ["train.epoch=6"], callbacks=[scores])
    assert folders(run) == ["epoch_2", "epoch_5", "epoch_6"]
    assert find_checkpoint(run / "best") == run / "epoch_2"
    assert find_checkpoint(run) == find_checkpoint(run / "latest") == run / "epoch_6"
    load_policy(run / "best", device="cpu")


def test_the_best_moment_is_saved_when_no_checkpoint_is_due(
    tiny_experiment: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = Scores({1: 3.0, 2: 1.0, 3: 2.0})
    best = {"best": {"metric": "score", "mode": "min"}, "save_last": False, "keep": 1}
    path = tiny_experiment(lambda c: c["train"].update(checkpoint=best, save_every=10))
    run = train(path, ["train.epoch=3"], callbacks=[scores])
    assert folders(run) == ["epoch_2"]
    assert (run / "best").read_text().startswith("epoch_2\n")


def test_a_resumed_run_knows_the_best_score_so_far(
    tiny_experiment: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = Scores({1: 0.9, 2: 0.5, 3: 0.7, 4: 1.0})
    path = tiny_experiment(lambda c: c["train"].update(checkpoint={"best": BEST}))
    for epochs, best in ((2, 1), (3, 1), (4, 4)):
        run = train(path, [f"train.epoch={epochs}"], callbacks=[scores])
        assert find_checkpoint(run / "best") == run / f"epoch_{best}"


def test_going_back_lets_best_name_the_best_moment_so_far(
    tiny_experiment: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = Scores({1: 0.5, 2: 0.4, 3: 0.9})
    path = tiny_experiment(lambda c: c["train"].update(checkpoint={"best": BEST}))
    run = train(path, ["train.epoch=3"], callbacks=[scores])
    assert find_checkpoint(run / "best") == run / "epoch_3"
    scores = Scores({3: 0.45})
    train(path, ["train.epoch=3", f"train.checkpoint.resume_from={run / 'epoch_2'}"], callbacks=[scores])
    assert find_checkpoint(run / "best") == run / "epoch_1"
    assert json.loads((run / "best").read_text().splitlines()[1])["iteration"] == STEPS_PER_EPOCH


def test_in_another_folder_the_best_moment_is_one_that_is_there(
    tiny_experiment: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = Scores({1: 0.9, 2: 0.1, 3: 0.5, 4: 0.4})
    path = tiny_experiment(lambda c: c["train"].update(checkpoint={"best": BEST}))
    run = train(path, callbacks=[scores])
    other = tmp_path / "other"
    choices = [f"train.save_dir={other}", f"train.checkpoint.resume_from={run / 'epoch_2'}", "train.epoch=4"]
    train(path, choices, callbacks=[scores])
    assert find_checkpoint(other / "best") == other / "epoch_3"


def test_a_best_metric_that_nothing_measures_is_reported(
    tiny_experiment: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = Scores({1: 0.9})
    wanted = {"metric": "sucess_rate", "mode": "max"}
    run = train(tiny_experiment(lambda c: c["train"].update(checkpoint={"best": wanted})), callbacks=[scores])
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
    monkeypatch.setattr("trainer.checkpoint.folder.fsync_path", lambda path: flushed.append(path.name))
    train(tiny_experiment(lambda c: c["data"].update(validation={"fraction": 0.3})), ["train.epoch=1"])
    assert {"metrics.jsonl", "validations.jsonl"} <= set(flushed)


class Reseeding(Callback):
    """Changes trained weights outside of updates, as a codebook does that gives dead rows new values."""

    def after_step(self, experiment: Experiment, metrics: Mapping[str, Any]) -> None:
        if experiment.progress.iteration % 4 == 0:
            experiment.save()
            with torch.no_grad():
                next(experiment.models["velocity_decoder"].parameters())[0] = 0.5


def test_weights_that_change_outside_of_updates_lose_no_checkpoint(
    tiny_experiment: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept: list[Any] = []

    class Keeping(Reseeding):
        def after_step(self, experiment: Experiment, metrics: Mapping[str, Any]) -> None:
            weight = next(experiment.models["velocity_decoder"].parameters())
            if experiment.progress.iteration == 8:
                kept.append(weight.detach().clone())
            super().after_step(experiment, metrics)
            experiment.writer.wait()
            if experiment.progress.iteration == 8:
                state = load_tensors(experiment.run / "step_8/training_state.pt")
                kept.append(next(iter(state["models"]["velocity_decoder"].values())))

    monkeypatch.setattr("trainer.offline_trainer.EvaluationCallback", lambda _: Keeping())
    train(tiny_experiment())
    assert torch.equal(*kept)
    assert "Warning: checkpoint" not in capsys.readouterr().err


class Crash(RuntimeError):
    """Stands for whatever a simulator, a metric or a callback raises."""


class Crashing(Callback):
    """Fails as it measures, once."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def after_epoch(self, experiment: Experiment) -> dict[str, float]:
        if experiment.progress.epoch == self.epoch:
            self.epoch = -1
            raise Crash("the simulator is gone")
        return {"score": float(experiment.progress.epoch)}


@pytest.mark.parametrize("save_every", [1, 5])
def test_what_fails_as_it_measures_costs_no_epoch(
    tiny_experiment: Write, tmp_path: Path, save_every: int
) -> None:
    def change(config: dict[str, Any]) -> None:
        fixed_schedule(config)
        config["train"].update(epoch=4, save_every=save_every, checkpoint={"best": BEST})
        config["data"]["validation"] = {"fraction": 0.3}

    path = tiny_experiment(change)
    runs = []
    for name, crash in (("whole", -1), ("crashed", 3)):
        crashing = Crashing(crash)
        folder = [f"train.save_dir={tmp_path / name}"]
        if crash > 0:
            with pytest.raises(Crash):
                train(path, folder, callbacks=[crashing])
            assert find_checkpoint(tmp_path / name).name == "epoch_3"
            read_manifest(tmp_path / name / "epoch_3")
            assert find_checkpoint(tmp_path / name / "best").name == "epoch_2"
        runs.append(train(path, folder, callbacks=[crashing]))
    for name in ("velocity_decoder.pt", "velocity_decoder_opt.pt", "training_state.pt", "measured.pt"):
        a, b = (load_tensors(run / "epoch_4" / name) for run in runs)
        assert_same(a, b)
    for file in ("validations.jsonl", "best"):
        assert (runs[0] / file).read_text() == (runs[1] / file).read_text()


class Broken:
    """A logger whose network is gone after some steps."""

    def start(self, run: RunIdentity) -> int:
        return -1

    def log(self, rows: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        if rows[-1][0] >= 5:
            raise Crash("the network is gone")

    def finish(self) -> None:
        pass


@pytest.mark.parametrize(("every", "saved"), [(1, "step_7"), (50, "epoch_1")])
def test_a_logger_that_fails_costs_no_update(
    tiny_experiment: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int, saved: str
) -> None:
    monkeypatch.setitem(LOGGER_REGISTRY._entries, "broken", Broken)
    logging = {"log_every_n_steps": every, "loggers": [{"type": "broken"}]}
    path = tiny_experiment(lambda c: c["train"].update(epoch=3, save_every=3, **logging))
    with pytest.raises(Crash, match="the network is gone"):
        train(path)
    assert find_checkpoint(tmp_path / "run").name == saved
    run = train(path, ["train.loggers=[]"])
    whole = train(path, ["train.loggers=[]", f"train.save_dir={tmp_path / 'whole'}"])
    assert_same(*(load_tensors(one / "epoch_3/velocity_decoder.pt") for one in (run, whole)))


def test_a_callback_that_fails_after_a_step_costs_no_update(tiny_experiment: Write, tmp_path: Path) -> None:
    class Failing(Callback):
        def after_step(self, experiment: Experiment, metrics: Mapping[str, Any]) -> None:
            if experiment.progress.iteration == 16:
                raise Crash("there is no such picture")

    path = tiny_experiment(lambda c: c["train"].update(save_every=2))
    with pytest.raises(Crash):
        train(path, callbacks=[Failing()])
    assert find_checkpoint(tmp_path / "run").name == "step_16"
    read_manifest(tmp_path / "run/step_16")


def test_a_run_killed_before_it_measured_does_so_when_it_is_taken_up(
    tiny_experiment: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Early stopping counts the epoch once, whether it is killed before, while or after it is noted."""

    def change(config: dict[str, Any]) -> None:
        fixed_schedule(config)
        stopping = {"metric": "score", "mode": "max", "patience": 2}
        config["train"].update(epoch=8, callbacks=[{"type": "early_stopping", "params": stopping}])

    path = tiny_experiment(change)
    scores = dict.fromkeys(range(1, 9), 0.1) | {1: 0.5, 2: 0.7}
    scores = Scores(scores)
    whole = train(path, [f"train.save_dir={tmp_path / 'whole'}"], callbacks=[scores])
    assert folders(whole) == ["epoch_1", "epoch_2", "epoch_3", "epoch_4"]
    for killed_after in (2, 3, 4):
        run = train(
            path, [f"train.save_dir={tmp_path / 'again'}", f"train.epoch={killed_after}"], callbacks=[scores]
        )
        (run / f"epoch_{killed_after}/measured.pt").unlink()
        (run / "run.json").write_text("{}")
        train(path, [f"train.save_dir={run}"], callbacks=[scores])
        assert folders(run) == folders(whole)
        a, b = (load_tensors(one / "epoch_4/measured.pt") for one in (whole, run))
        assert_same(a, b)
        shutil.rmtree(run)


def test_weights_are_deployed_from_a_schedule_free_optimizer_without_changing_the_run() -> None:
    schedulefree = pytest.importorskip("schedulefree")
    torch.manual_seed(0)
    layer, data = nn.Linear(20, 7), torch.randn(16, 20)
    optimizer = schedulefree.AdamWScheduleFree(layer.parameters(), lr=0.03, warmup_steps=3)
    with deployed_in_place(optimizer) as differs:
        assert not differs, "before the first step there is one kind of weights"
    for _ in range(5):
        optimizer.train()
        layer(data).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    other, other_optimizer = copy.deepcopy((layer, optimizer))
    other_optimizer.eval()
    before = copy.deepcopy([layer.state_dict(), optimizer.state_dict()])
    with deployed_in_place(optimizer) as differs:
        assert differs
        assert torch.equal(layer.weight, other.weight)
    assert_same([layer.state_dict(), optimizer.state_dict()], before)
    assert optimizer.param_groups[0]["train_mode"]


@pytest.mark.parametrize("what", ["", "latest", "best", "epoch_1"])
def test_a_run_begins_with_the_weights_of_another(
    tiny_experiment: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    scores = Scores({1: 0.9, 2: 0.1})
    path = tiny_experiment(lambda c: c["train"].update(checkpoint={"best": BEST}))
    run = train(path, callbacks=[scores])
    begun: list[Any] = []

    class Looking(Callback):
        def before_training(self, experiment: Experiment) -> None:
            begun.append(copy.deepcopy(experiment.models["velocity_decoder"].state_dict()))

    monkeypatch.setattr("trainer.offline_trainer.EvaluationCallback", lambda _: Looking())
    train(
        path,
        [f"train.save_dir={tmp_path / 'new'}", f"train.load_dir={run / what}", "train.epoch=1"],
        callbacks=[scores],
    )
    epoch = 1 if what in ("best", "epoch_1") else 2
    assert_same(dict(begun[0]), dict(load_tensors(run / f"epoch_{epoch}/velocity_decoder.pt")))


def test_weights_of_another_model_are_said_by_component_parameter_and_shape(
    tiny_experiment: Write, tmp_path: Path
) -> None:
    path = tiny_experiment()
    run = train(path, ["train.epoch=1"])
    decoder = path.parent / "models/velocity_decoder.yaml"
    decoder.write_text(decoder.read_text().replace("width: 32", "width: 48"))
    outcome = attempt(path, [f"train.save_dir={tmp_path / 'new'}", f"train.load_dir={run}"])
    assert outcome.code == 2
    assert (
        f"{run}/epoch_1/velocity_decoder.pt does not fit component 'velocity_decoder': its " in outcome.text
    )
    assert "size mismatch" not in outcome.text
    assert re.search(r"its \S+ is of shape \(32,.*?\) instead of \(48,", outcome.text)


class Endless(Batches):
    """The demonstrations again and again, with no epochs."""

    steps_per_epoch = None

    def __init__(self, demonstrations: Batches) -> None:
        self.demonstrations = demonstrations
        self.micro_batches = demonstrations.micro_batches
        self.samples_per_update = demonstrations.samples_per_update

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[dict[str, Any]]:
        passes, begun = divmod(start_step, STEPS_PER_EPOCH)
        for number in itertools.count(passes):
            yield from self.demonstrations.epoch(number, begun if number == passes else 0)

    def example(self, samples: int) -> dict[str, Any]:
        return self.demonstrations.example(samples)


def test_a_run_without_epochs_keeps_the_checkpoints_of_its_steps(
    tiny_experiment: Write, tmp_path: Path
) -> None:
    def change(config: dict[str, Any]) -> None:
        fixed_schedule(config)
        config["train"].update(epoch=None, max_steps=26)
        config["train"]["checkpoint"] = {"save_every_n_steps": 5}

    path = tiny_experiment(change)
    endless = {"batches": lambda demonstrations, *_: Endless(demonstrations)}
    run = train(path, **endless)
    assert folders(run) == sorted(f"step_{n}" for n in (5, 10, 15, 20, 25, 26))
    parts = [f"train.save_dir={tmp_path / 'parts'}", "train.checkpoint.keep=2"]
    train(path, [*parts, "train.max_steps=13"], **endless)
    again = train(path, parts, **endless)
    assert folders(again) == ["step_25", "step_26"]
    assert [line["total"] for line in metrics(again)] == [line["total"] for line in metrics(run)]
