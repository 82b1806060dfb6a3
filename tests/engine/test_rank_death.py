"""A rank that dies ends the others within a bounded time, which say which one it was and why."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.run_folder import assert_same, metrics, weights
from helpers.runs import ROOT, environment, wait_for_steps

from trainer.runtime.rank_monitor import BOUND_SECONDS

Write = Callable[..., Path]
PLUGIN = '''
import os
from experiment_training.components.trainer.imitation_learning.state_flow_matching import policy
from trainer.engine.policy_trainer import PolicyTrainer
from trainer.registry import TRAINER_REGISTRY
from trainer.runtime import environment_rank

@TRAINER_REGISTRY.register("telling_trainer")
class TellingTrainer(PolicyTrainer):
    """Writes down the process of each rank."""

    policy_class = policy.StateFlowMatchingPolicy

    def train_step(self, data, context):
        if context.step == 0:
            path = os.path.join(os.path.dirname(__file__), f"process_{environment_rank()}")
            with open(path, "w") as file:
                file.write(str(os.getpid()))
        return super().train_step(data, context)
'''


def long(config: dict[str, Any]) -> None:
    config["plugins"].append("telling")
    config["train"]["trainer"]["type"] = "telling_trainer"
    config["train"].update(epoch=4000, save_every=4000)


def start(path: Path, run: Path, *options: str, overrides: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    (path.parent / "telling.py").write_text(PLUGIN)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *options]
    script = ["trainer/offline_trainer.py", "--train_config", str(path), "--set", f"train.save_dir={run}"]
    script += [text for override in overrides for text in ("--set", override)]
    command = [sys.executable, *launcher, *script]
    return subprocess.Popen(command, cwd=ROOT, env=environment(), text=True, stderr=subprocess.PIPE)


def send(path: Path, rank: int, number: signal.Signals) -> int:
    process = int((path.parent / f"process_{rank}").read_text())
    os.kill(process, number)
    return process


@pytest.mark.parametrize("rank", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_killed_rank_is_named_and_the_other_is_no_stopped_run(
    tiny_experiment: Write, tmp_path: Path, rank: int
) -> None:
    path, run = tiny_experiment(long), tmp_path / "run"
    process = start(path, run)
    wait_for_steps(run, process, 8)
    killed, since = send(path, rank, signal.SIGKILL), time.monotonic()
    said = process.communicate(timeout=BOUND_SECONDS)[1]
    assert time.monotonic() - since < BOUND_SECONDS
    assert process.returncode != 0
    assert said.count(f"Error: Rank {rank} (host ") == 1
    assert f"process {killed}) is lost: its process ended without a word, as when it is killed" in said
    assert "Saved and stopped" not in said
    assert "Traceback" not in said.split("is lost")[0]


@pytest.mark.slow
def test_a_rank_that_gives_no_sign_of_life_is_given_up(tiny_experiment: Write, tmp_path: Path) -> None:
    path, run = tiny_experiment(long), tmp_path / "run"
    process = start(path, run)
    wait_for_steps(run, process, 8)
    stopped = send(path, 1, signal.SIGSTOP)
    waiting = int((path.parent / "process_0").read_text())
    since = time.monotonic()
    while Path(f"/proc/{waiting}").exists():
        assert time.monotonic() - since < BOUND_SECONDS + 10
        time.sleep(0.5)
    os.kill(stopped, signal.SIGKILL)  # torchrun itself would wait half a minute more
    said = process.communicate(timeout=60)[1]
    assert process.returncode != 0
    assert f"process {stopped}) is lost: no sign of life for 45 s" in said


@pytest.mark.slow
def test_torchrun_starts_a_killed_rank_again_and_the_run_is_the_same(
    tiny_experiment: Write, tmp_path: Path
) -> None:
    path = tiny_experiment(long)
    short = ("train.epoch=60", "train.save_every=5")
    whole = start(path, tmp_path / "whole", overrides=short)
    assert whole.communicate(timeout=200) is not None
    assert whole.returncode == 0
    run = tmp_path / "killed"
    process = start(path, run, "--max-restarts=1", overrides=short)
    wait_for_steps(run, process, 100)
    send(path, 1, signal.SIGKILL)
    said = process.communicate(timeout=200)[1]
    assert process.returncode == 0, said
    assert f"Taking up {run} after step" in said
    assert_same(weights(tmp_path / "whole/epoch_60"), weights(run / "epoch_60"))
    totals = [[(m["step"], m["total"]) for m in metrics(folder)] for folder in (tmp_path / "whole", run)]
    assert totals[0] == totals[1]


FAILING = """
import errno, os, time
from trainer.checkpoint import writer
from trainer.registry import CALLBACK_REGISTRY, LOGGER_REGISTRY
from trainer.templates import Callback

def broken_disk(*_):
    raise OSError(errno.EIO, "Input/output error")

@CALLBACK_REGISTRY.register("failing")
class Failing(Callback):
    def __init__(self, where: str):
        self.where = where

    def before_training(self, experiment):
        self.main = experiment.runtime.is_main
        if self.main and self.where == "disk":
            writer.write_checkpoint = broken_disk

    def after_epoch(self, experiment):
        if self.main and self.where in ("callback", "end"):
            raise RuntimeError("the callback is broken")

@LOGGER_REGISTRY.register("failing")
class FailingLogger:
    def __init__(self, where: str):
        self.where = where

    def start(self, run):
        return -1

    def log(self, rows):
        if self.where == "logger":
            raise RuntimeError("the logger is broken")

    def finish(self):
        if self.where == "end":
            time.sleep(600)
"""
REASONS = {
    "end": "the callback is broken",
    "callback": "the callback is broken",
    "logger": "the logger is broken",
    "disk": "checkpoint epoch_1 could not be written",
}


@pytest.mark.parametrize(
    "where", ["end", *(pytest.param(w, marks=pytest.mark.slow) for w in list(REASONS)[1:])]
)
def test_what_fails_on_rank_0_ends_all_with_its_reason(
    tiny_experiment: Write, tmp_path: Path, where: str
) -> None:
    """Also where a logger hangs as it is closed after that: the others wait in a collective meanwhile."""

    def change(config: dict[str, Any]) -> None:
        long(config)
        config["plugins"].append("failing")
        failing = [{"type": "failing", "params": {"where": where}}]
        config["train"].update(save_every=1, callbacks=failing, loggers=failing)

    (tmp_path / "failing.py").write_text(FAILING)
    path, run = tiny_experiment(change), tmp_path / "run"
    process = start(path, run)
    wait_for_steps(run, process, 4)
    since = time.monotonic()
    said = process.communicate(timeout=2 * BOUND_SECONDS)[1]
    assert time.monotonic() - since < 60
    assert process.returncode != 0
    assert REASONS[where] in said
    assert not Path(f"/proc/{(path.parent / 'process_1').read_text()}").exists()
    if where != "disk":
        assert (run / "epoch_1/manifest.json").is_file()
