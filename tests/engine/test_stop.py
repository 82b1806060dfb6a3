"""Stopping a run by a signal, in the middle of an epoch, and taking it up again."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from helpers.run_folder import assert_same, metrics
from helpers.runs import ROOT, environment, training_command, wait_for_steps

from trainer.checkpoint.folder import find_checkpoint
from trainer.cli import main
from trainer.data.batches import Batches
from trainer.engine.stop import Stopped, WaitEnded, ask_to_stop, stop_asked
from trainer.offline_trainer import attempted, train


def long_with_dropout(config: dict[str, Any]) -> None:
    config["train"]["epoch"] = 40
    config["train"]["save_every"] = 40
    config["data"]["batch_size"] = 8


def command(path: Path, run: Path, ranks: int) -> list[str]:
    return training_command(path, ranks, f"train.save_dir={run}")


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGINT, signal.SIGHUP))],
)
def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    tiny_experiment: Callable[..., Path], tmp_path: Path, number: signal.Signals
) -> None:
    path = tiny_experiment(long_with_dropout)
    decoder = path.parent / "models/velocity_decoder.yaml"
    decoder.write_text(decoder.read_text().replace("dropout: 0.0", "dropout: 0.2"))
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    options: dict[str, Any] = {"cwd": ROOT, "env": environment(), "text": True, "stderr": subprocess.PIPE}
    subprocess.run(command(path, whole, 1), check=True, timeout=120, **options)

    process = subprocess.Popen(command(path, stopped, 1), **options)
    wait_for_steps(stopped, process, 30)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number
    assert f"Saved and stopped by {number.name}; the same command goes on from there." in said
    (checkpoint,) = stopped.glob("step_*")
    assert (stopped / "latest").read_text().strip() == checkpoint.name

    done = subprocess.run(command(path, stopped, 1), check=True, timeout=120, **options)
    assert f"after step {checkpoint.name.removeprefix('step_')}" in done.stderr
    for name in ("observation_encoder.pt", "velocity_decoder.pt", "velocity_decoder_opt.pt"):
        a, b = (torch.load(r / "epoch_40" / name, weights_only=True) for r in (whole, stopped))
        assert_same(a, b)
    numbers = [[(m["step"], m["total"]) for m in metrics(r)] for r in (whole, stopped)]
    assert numbers[0] == numbers[1]
    assert not list(stopped.glob("step_*")), "what was there to go on from is gone when an epoch was saved"


def test_two_ranks_stop_together_also_when_epochs_are_shorter_than_logging_windows(
    tiny_experiment: Callable[..., Path], tmp_path: Path
) -> None:
    def short_epochs(config: dict[str, Any]) -> None:
        config["train"].update(epoch=4000, save_every=4000, log_every_n_steps=4)
        config["data"]["batch_size"] = 40  # two steps an epoch

    path = tiny_experiment(short_epochs)
    run = tmp_path / "two"
    process = subprocess.Popen(
        command(path, run, 2), cwd=ROOT, env=environment(), text=True, stderr=subprocess.PIPE
    )
    wait_for_steps(run, process, 30)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=90)
    assert process.returncode != 0
    assert (run / (run / "latest").read_text().strip() / "manifest.json").is_file()


def test_a_second_signal_ends_a_run_at_once_and_harms_nothing(
    tiny_experiment: Callable[..., Path], tmp_path: Path
) -> None:
    def slow_steps(config: dict[str, Any]) -> None:
        long_with_dropout(config)
        config["train"]["save_every"] = 1
        config["plugins"].append("dawdling")
        config["train"]["trainer"]["type"] = "dawdling_trainer"

    (tmp_path / "dawdling.py").write_text(DAWDLING)
    path, run = tiny_experiment(slow_steps), tmp_path / "run"
    options: dict[str, Any] = {"cwd": ROOT, "env": environment(), "text": True, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command(path, run, 1), **options)
    wait_for_steps(run, process, 30)  # the next step takes an hour
    deadline = time.monotonic() + 60
    while not (run / "latest").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    while "a second signal stops at once" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=30)[1]
    assert process.returncode == 128 + signal.SIGTERM
    assert "Stopped at once" in said
    assert find_checkpoint(run).name == "epoch_1"
    dawdling = (tmp_path / "dawdling.py").read_text().replace("== 40", "< 0")
    (tmp_path / "dawdling.py").write_text(dawdling)
    again = [*command(path, run, 1), "--set", "train.epoch=3"]
    done = subprocess.run(again, check=True, timeout=120, **options)
    assert "after step 22" in done.stderr
    assert [m["step"] for m in metrics(run)] == list(range(66))


STUCK = """
import multiprocessing, os, time
from experiment_training.components.dataloader.lerobot_data import LerobotDatasetFactory
from trainer.registry import DATASET_BUILDER_REGISTRY

class Stuck:
    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        if multiprocessing.parent_process() is None:
            return self.dataset[index]
        with open(os.path.join(os.path.dirname(__file__), f"worker_{os.getpid()}"), "w"):
            pass
        time.sleep(3600)

@DATASET_BUILDER_REGISTRY.register("stuck_dataset")
class StuckFactory(LerobotDatasetFactory):
    def build(self, opt_params, params):
        built = super().build(opt_params, params)
        return {**built, "dataset": Stuck(built["dataset"])}
"""


@pytest.fixture
def stuck(
    tiny_experiment: Callable[..., Path], tmp_path: Path
) -> Iterator[tuple[Path, subprocess.Popen[str], list[int]]]:
    """An experiment in training, and its two workers, which hang in the dataset."""

    def hang(config: dict[str, Any]) -> None:
        config["plugins"].append("stuck")
        config["data"]["datamodule"]["type"] = "stuck_dataset"
        config["data"]["num_workers"] = 2

    (tmp_path / "stuck.py").write_text(STUCK)
    path = tiny_experiment(hang)
    process = subprocess.Popen(
        command(path, tmp_path / "run", 1), cwd=ROOT, env=environment(), text=True, stderr=subprocess.PIPE
    )
    workers: list[int] = []
    deadline = time.monotonic() + 120
    try:
        while len(workers) < 2:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)
            workers = [int(p.name[7:]) for p in tmp_path.glob("worker_*")]
        yield path, process, workers
    finally:
        process.kill()
        process.wait()
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)


def wait_until_gone(workers: list[int]) -> None:
    deadline = time.monotonic() + 60
    while any(is_running(worker) for worker in workers):
        assert time.monotonic() < deadline, "a worker is left"
        time.sleep(0.05)


def is_running(process: int) -> bool:
    """Tell a process that runs from none, and from one that has ended and whom nobody has asked about."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_a_second_signal_ends_workers_that_hang_in_a_dataset(
    stuck: tuple[Path, subprocess.Popen[str], list[int]],
) -> None:
    _, process, workers = stuck
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    while "a second signal stops at once" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 128 + signal.SIGINT
    wait_until_gone(workers)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends a process with its parent")
def test_workers_that_hang_end_with_a_trainer_that_is_killed(
    stuck: tuple[Path, subprocess.Popen[str], list[int]], tmp_path: Path
) -> None:
    path, process, workers = stuck
    process.kill()
    process.wait(timeout=60)
    wait_until_gone(workers)
    again = [*command(path, tmp_path / "run", 1), "--set", "data.num_workers=0", "--set", "train.epoch=1"]
    done = subprocess.run(again, cwd=ROOT, env=environment(), text=True, stderr=subprocess.PIPE, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "still writes to" not in done.stderr


CHATTY = """
import sys
from trainer.registry import CALLBACK_REGISTRY
from trainer.templates import Callback

@CALLBACK_REGISTRY.register("chatty")
class Chatty(Callback):
    def after_step(self, experiment, metrics):
        print("a word to stdout", flush=True)
        print("a word to stderr", file=sys.stderr, flush=True)
"""


@pytest.mark.parametrize(
    "where",
    ["2>&1 | head -c 20", *(pytest.param(w, marks=pytest.mark.slow) for w in ("2>&-", ">/dev/full 2>&1"))],
)
def test_training_does_not_depend_on_who_listens(
    tiny_experiment: Callable[..., Path], tmp_path: Path, where: str
) -> None:
    def with_chatty(config: dict[str, Any]) -> None:
        config["plugins"].append("chatty")
        config["train"]["callbacks"] = [{"type": "chatty"}]

    (tmp_path / "chatty.py").write_text(CHATTY)
    path, run = tiny_experiment(with_chatty), tmp_path / "run"
    words = " ".join(command(path, run, 1))
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {words} --set train.save_every=1 {where}"],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        timeout=120,
    )
    assert done.returncode == 0
    steps = [m["step"] for m in metrics(run)]
    assert steps == list(range(len(steps)))
    assert find_checkpoint(run).name == f"epoch_{len(steps) // 11}"


def test_nohup_goes_on_when_the_terminal_closes(tiny_experiment: Callable[..., Path], tmp_path: Path) -> None:
    path, run = tiny_experiment(long_with_dropout), tmp_path / "run"
    options: dict[str, Any] = {"cwd": ROOT, "env": environment(), "text": True, "stderr": subprocess.PIPE}
    process = subprocess.Popen(["nohup", *command(path, run, 1)], stdout=subprocess.DEVNULL, **options)
    wait_for_steps(run, process, 30)
    process.send_signal(signal.SIGHUP)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 0, said
    assert find_checkpoint(run).name == "epoch_40"


DAWDLING = """
import time
from experiment_training.components.trainer.imitation_learning.state_flow_matching import policy
from trainer.engine.policy_trainer import PolicyTrainer
from trainer.registry import TRAINER_REGISTRY

@TRAINER_REGISTRY.register("dawdling_trainer")
class DawdlingTrainer(PolicyTrainer):
    policy_class = policy.StateFlowMatchingPolicy

    def train_step(self, data, context):
        if context.step == 40:
            time.sleep(3600)
        return super().train_step(data, context)
"""


@pytest.mark.slow
def test_two_ranks_finish_their_step_with_loader_workers_too(
    tiny_experiment: Callable[..., Path], tmp_path: Path
) -> None:
    """torchrun signals the process groups of the ranks, to which their loader workers would belong."""

    def workers(config: dict[str, Any]) -> None:
        config["train"].update(epoch=4000, save_every=4000, log_every_n_steps=150)
        config["data"].update(batch_size=4, num_workers=2)

    path, run = tiny_experiment(workers), tmp_path / "two"
    options: dict[str, Any] = {"cwd": ROOT, "env": environment(), "text": True, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command(path, run, 2), **options)
    wait_for_steps(run, process, 150)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=90)[1]
    assert "Saved and stopped by SIGTERM" in said
    assert "loader worker" not in said
    assert process.returncode != 0


class Starving(Batches):
    """Gives the batches of demonstrations until one has to be waited for; then the run is asked to stop."""

    def __init__(self, demonstrations: Batches, before: int) -> None:
        self.steps_per_epoch = demonstrations.steps_per_epoch
        self.micro_batches = demonstrations.micro_batches
        self.samples_per_update = demonstrations.samples_per_update
        self.demonstrations, self.before = demonstrations, before

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[dict[str, Any]]:
        yield from itertools.islice(self.demonstrations.epoch(epoch, start_step), self.before)
        ask_to_stop(signal.SIGTERM)
        assert stop_asked() == signal.SIGTERM
        raise WaitEnded("there is nothing to draw")

    def example(self, samples: int) -> dict[str, Any]:
        return self.demonstrations.example(samples)


def test_a_run_that_waits_for_samples_stops_where_it_waits(
    tiny_experiment: Callable[..., Path], tmp_path: Path
) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    try:
        with pytest.raises(Stopped) as stopped:
            train(
                tiny_experiment(),
                [f"train.save_dir={run}"],
                batches=lambda demonstrations, path, runtime: Starving(demonstrations, 7),
            )
    finally:
        ask_to_stop(0)
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    assert (run / "latest").read_text().strip() == "step_7"
    train(tiny_experiment(), [f"train.save_dir={run}"])
    train(tiny_experiment(), [f"train.save_dir={whole}"])
    assert [m["total"] for m in metrics(run)] == [m["total"] for m in metrics(whole)]


def test_a_run_that_is_asked_to_stop_while_it_is_put_together_does_not_begin(
    tiny_experiment: Callable[..., Path], tmp_path: Path
) -> None:
    def asking(demonstrations: Batches, path: Any, runtime: Any) -> Batches:
        ask_to_stop(signal.SIGINT)  # as the process that started the ranks does when a signal comes there
        return demonstrations

    experiment = tiny_experiment()
    try:
        run = [f"train.save_dir={tmp_path / 'run'}"]
        outcome = attempted(lambda: train(experiment, run, batches=asking), experiment, ())
    finally:
        ask_to_stop(0)
    assert outcome.code == 130
    assert outcome.text == "Stopped by SIGINT before training began, so nothing is lost."
    assert not (tmp_path / "run" / "latest").exists()


def test_ctrl_c_while_a_command_is_still_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("trainer.cli.importlib.import_module", interrupted)
    result = CliRunner().invoke(main, ["train", "x.yaml"])
    assert (result.exit_code, result.output) == (130, "\nStopped by Ctrl-C.\n")
