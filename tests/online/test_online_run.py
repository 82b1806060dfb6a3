"""Whole online runs on real Ray clusters, in a real simulator, and what losses on the way cost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.runs import ROOT, environment

pytest.importorskip("ray")
pytest.importorskip("metaworld")

pytestmark = pytest.mark.slow

CONFIG = "benchmarks/online_small.yaml"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("recorded") / "push"
    record = ["record", "--env", "metaworld/push-v3", "--episodes", "5", "--out", str(out)]
    subprocess.run([sys.executable, "-m", "trainer.cli", *record], cwd=ROOT, env=environment(), check=True)
    return out


@pytest.fixture
def start(dataset: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return what begins an online run in a folder, with further overrides and options."""
    processes = []

    def begin(run: Path, *sets: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        overrides = [f"train.save_dir={run}", f"data.datamodule.params.root={dataset}", *sets]
        command = [sys.executable, "-m", "trainer.cli", "online", CONFIG, *options]
        process = subprocess.Popen(
            [*command, *(part for one in overrides for part in ("--set", one))],
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        processes.append(process)
        return process

    yield begin
    for process in processes:
        if process.poll() is None:
            process.terminate()
            process.wait(120)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for_updates(run: Path, process: subprocess.Popen[str], count: int) -> None:
    while len(lines(run / "metrics.jsonl")) < count:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.2)


def check_whole(run: Path, said: str, process: subprocess.Popen[str]) -> None:
    assert process.returncode == 0, said
    assert [m["step"] for m in lines(run / "metrics.jsonl")] == list(range(300))
    versions = [line["weights_version"] for line in lines(run / "online.jsonl")]
    assert versions == sorted(set(versions))
    episodes = list((run / "online/journal").glob("*.npz"))
    info = json.loads((run / "online/dataset/meta/info.json").read_text())
    assert info["total_episodes"] == len(episodes) > 0


def test_a_run_that_is_stopped_goes_on_with_its_buffer(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = start(run)
    wait_for_updates(run, process, 100)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=240)[0]
    assert process.returncode == 130, said
    assert "the same command goes on from there" in said
    kept = {path.name: path.read_bytes() for path in (run / "online/journal").glob("*.npz")}
    assert kept
    process = start(run)
    said = process.communicate(timeout=400)[0]
    check_whole(run, said, process)
    assert all((run / "online/journal" / name).read_bytes() == data for name, data in kept.items())
    assert "expert labels" in said


def test_a_node_that_is_taken_away_ends_nothing(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    from ray.cluster_utils import Cluster

    run = tmp_path / "run"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "resources": {"training_pc": 1}})
    try:
        robots = cluster.add_node(num_cpus=1, resources={"robots": 1})
        placement = "{learner: {training_pc: 0.01}, workers: {robots: 1}}"
        process = start(run, f"online.placement={placement}", options=("--address", cluster.address))
        wait_for_updates(run, process, 80)
        before = len(list((run / "online/journal").glob("*.npz")))
        cluster.remove_node(robots)
        cluster.add_node(num_cpus=1, resources={"robots": 1})
        said = process.communicate(timeout=400)[0]
    finally:
        cluster.shutdown()
    check_whole(run, said, process)
    assert len(list((run / "online/journal").glob("*.npz"))) > before


def test_an_expert_that_raises_ends_the_run_with_what_it_said(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_expert.py").write_text(
        "from trainer.registry import EXPERT_REGISTRY\n"
        "@EXPERT_REGISTRY.register('broken')\n"
        "class Broken:\n"
        "    def reset(self, robot): pass\n"
        "    def act(self, observation): raise RuntimeError('the glove is not connected')\n"
        "    def takes_over(self, observation, action): return True\n"
    )
    run = tmp_path / "run"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    plugins = [
        "experiment_training.components.dataloader.lerobot_data",
        "experiment_training.components.optimizer.adamw_cosine_decay",
        "experiment_training.components.trainer.imitation_learning."
        "state_flow_matching.state_flow_matching_trainer",
        "broken_expert",
    ]
    process = start(run, f"plugins={json.dumps(plugins)}", "online.expert.type=broken")
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 2, said
    assert "the glove is not connected" in said
    assert not list((run / "online/journal").glob("*.npz"))
