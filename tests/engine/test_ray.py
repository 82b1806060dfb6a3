"""The third place to run: workers of a Ray cluster; numbers, words and exit codes are those of the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.run_folder import assert_same, metrics, weights
from helpers.runs import ROOT, environment, wait_for_steps

from trainer.checkpoint.folder import find_checkpoint
from trainer.cli import main
from trainer.offline_trainer import train
from trainer.runtime.ray import launch

pytest.importorskip("ray")
Write = Callable[..., Path]
SHARED = ["data.batch_size=null", "data.global_batch_size=16"]


def command(path: Path, run: Path, *options: str, overrides: tuple[str, ...] = ()) -> list[str]:
    texts = [text for one in (f"train.save_dir={run}", *SHARED, *overrides) for text in ("--set", one)]
    start = [sys.executable, "-m", "trainer.cli", "train", str(path), "--backend", "ray"]
    return [*start, "--num-workers", "2", *options, *texts]


def call(*words: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    env = {**environment(), **(environ or {})}
    return subprocess.run(words, cwd=ROOT, env=env, text=True, capture_output=True, timeout=240)


def attempt(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["train", *map(str, words)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    def touched() -> None:
        raise AssertionError("a cluster was touched")

    monkeypatch.setattr(launch, "import_ray", touched)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs=3", "did you mean 'epoch'?"),
        ("data.batch_size=1000", "data.batch_size"),
        ("device=tpu", "'tpu' is no device"),
    ],
)
def test_mistakes_are_found_before_a_cluster_is_touched(
    tiny_experiment: Write, no_cluster: None, override: str, message: str
) -> None:
    code, output = attempt(tiny_experiment(), "--backend", "ray", "--num-workers", 2, "--set", override)
    assert code == 2
    assert message in output
    assert "ray" not in output.lower()


def test_a_batch_that_the_workers_cannot_share_is_refused(tiny_experiment: Write, no_cluster: None) -> None:
    texts = ["--set", SHARED[0], "--set", SHARED[1]]
    code, output = attempt(tiny_experiment(), "--backend", "ray", "--num-workers", 3, *texts)
    assert code == 2
    assert "a global batch of 16 samples cannot be divided evenly among 3 ranks" in output


def test_without_ray_the_extra_is_named(tiny_experiment: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    code, output = attempt(tiny_experiment(), "--backend", "ray")
    assert code == 2
    assert output.startswith("Error: Ray is not installed")
    assert output.strip().endswith("pip install 'trainer-il[ray]'")


def test_an_address_where_no_cluster_is(tiny_experiment: Write) -> None:
    code, output = attempt(tiny_experiment(), "--backend", "ray", "--address", "127.0.0.1:1")
    assert code == 2
    assert "\nError: there is no Ray cluster at '127.0.0.1:1'" in output


def test_options_of_ray_without_ray_have_no_effect_and_say_so(tiny_experiment: Write) -> None:
    code, output = attempt(tiny_experiment(), "--num-workers", 2, "--max-failures", 1)
    assert code == 2
    assert "--num-workers and --max-failures have no effect without --backend ray" in output


def children_of(process: int) -> set[int]:
    """Return the processes that a process has started, and those that they have."""
    found, parents = set(), {process}
    table = [(int(p.parent.name), p) for p in Path("/proc").glob("[0-9]*/stat")]
    for _ in range(5):
        for number, path in table:
            try:
                if int(path.read_text().rsplit(")", 1)[1].split()[1]) in parents:
                    found.add(number)
            except (OSError, IndexError):
                continue
        parents = parents | found
    return found


def gone(processes: set[int]) -> bool:
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{p}").exists() for p in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def workers_of(process: int) -> list[int]:
    """Return the processes of the ranks of a run that started its own cluster."""
    titles = {p: Path(f"/proc/{p}/cmdline").read_bytes().decode() for p in children_of(process)}
    return sorted(p for p, title in titles.items() if "RayTrainWorker" in title)


@pytest.mark.slow
def test_two_workers_train_the_run_of_one_process(tiny_experiment: Write, tmp_path: Path) -> None:
    path = tiny_experiment()
    run = tmp_path / "ray"
    done = call(*command(path, run))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"Trained: {run}\n"
    assert "raylet" not in done.stderr
    assert "Starting Ray on this machine" in done.stderr
    assert "tiny: 100%" in done.stderr
    one = train(path, [f"train.save_dir={tmp_path / 'one'}", *SHARED])
    totals = [[m["total"] for m in metrics(folder)] for folder in (run, one)]
    assert len(totals[0]) == 22
    np.testing.assert_allclose(totals[0], totals[1], rtol=1e-5)


@pytest.mark.slow
def test_a_killed_worker_is_started_again_and_the_run_is_the_same(
    tiny_experiment: Write, tmp_path: Path
) -> None:
    path = tiny_experiment(lambda c: c["train"].update(epoch=100, save_every=5))
    whole, run = tmp_path / "whole", tmp_path / "killed"
    assert call(*command(path, whole)).returncode == 0
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command(path, run), cwd=ROOT, env=environment(), text=True, stdout=pipe, stderr=pipe
    )
    wait_for_steps(run, process, 100)
    started, victim = children_of(process.pid), workers_of(process.pid)[-1]
    os.kill(victim, signal.SIGKILL)
    out, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert out == f"Trained: {run}\n"
    assert f"process {victim}) is lost: its process ended without a word" in said
    assert "All ranks are starting again, 1 of 3." in said
    assert f"Taking up {run} after step" in said
    assert_same(weights(whole / "epoch_100"), weights(run / "epoch_100"))
    totals = [[(m["step"], m["total"]) for m in metrics(folder)] for folder in (whole, run)]
    assert totals[0] == totals[1]
    assert gone(started)


FAILING = """
from experiment_training.components.trainer.imitation_learning.state_flow_matching import policy
from trainer.engine.policy_trainer import PolicyTrainer
from trainer.registry import TRAINER_REGISTRY
from trainer.runtime import environment_rank

@TRAINER_REGISTRY.register("failing_trainer")
class FailingTrainer(PolicyTrainer):
    policy_class = policy.StateFlowMatchingPolicy

    def train_step(self, data, context):
        if environment_rank() == 1 and context.step == 3:
            raise RuntimeError("the gripper fell off")
        return super().train_step(data, context)
"""


@pytest.mark.slow
def test_when_no_retries_are_left_one_sentence_says_which_worker_and_why(
    tiny_experiment: Write, tmp_path: Path
) -> None:
    (tmp_path / "failing.py").write_text(FAILING)

    def change(config: dict[str, Any]) -> None:
        config["plugins"].append("failing")
        config["train"]["trainer"]["type"] = "failing_trainer"

    done = call(*command(tiny_experiment(change), tmp_path / "run", "--max-failures", "0"))
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: Rank 1 (host ")
    assert "failed: RuntimeError: the gripper fell off. The same command goes on" in last


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """Start a cluster as an administrator would, and yield its address."""
    port = 20000 + os.getpid() % 9000
    words = ["start", "--head", "--block", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
    env = {**environment(), "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    ray = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", *words]
    # --block ends what it started when it is ended.
    with (tmp_path / "cluster.txt").open("w") as log:
        process = subprocess.Popen(ray, cwd=tmp_path, env=env, stdout=log, stderr=log)
    deadline = time.monotonic() + 60
    while "--block" not in (tmp_path / "cluster.txt").read_text():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.5)
    yield f"127.0.0.1:{port}"
    started = children_of(process.pid)
    process.terminate()
    process.wait(60)
    assert gone(started)


@pytest.mark.slow
def test_a_running_cluster_is_used_stopped_at_and_left_running(
    tiny_experiment: Write, tmp_path: Path, cluster: str
) -> None:
    path = tiny_experiment(lambda c: c["train"].update(epoch=400, save_every=400))
    run = tmp_path / "run"
    env = {"RAY_AUTH_MODE": "disabled"}
    process = subprocess.Popen(
        command(path, run, "--address", cluster),
        cwd=ROOT,
        env={**environment(), **env},
        text=True,
        stderr=subprocess.PIPE,
    )
    wait_for_steps(run, process, 30)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGTERM
    assert "Saved and stopped by SIGTERM; the same command goes on from there." in said
    step = (run / "latest").read_text().strip().split("_")[1]
    done = call(*command(path, run, "--address", cluster, overrides=("train.epoch=20",)), environ=env)
    assert done.returncode == 0, done.stderr
    assert f"Taking up {run} after step" in done.stderr
    assert int(step) > 0


@pytest.mark.slow
def test_a_second_ctrl_c_waits_for_nobody_and_leaves_nothing_running(
    tiny_experiment: Write, tmp_path: Path
) -> None:
    # Ranks agree on stopping where their metrics meet, which is never.
    path = tiny_experiment(lambda c: c["train"].update(epoch=4000, log_every_n_steps=10**6))
    run = tmp_path / "run"
    process = subprocess.Popen(
        command(path, run), cwd=ROOT, env=environment(), text=True, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 120
    while not (run / "latest").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    started = children_of(process.pid)
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGINT
    assert "Stopped at once; what was saved before is whole." in said
    assert gone(started)
    assert find_checkpoint(run)
