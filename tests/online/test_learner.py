"""The learner of an online run, with actors of this process: what it draws, publishes and notes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.actors import use_local_actors
from helpers.run_folder import assert_same, metrics, weights
from helpers.runs import ROOT, environment
from helpers.tiny_experiment import write_dataset

from trainer.config.errors import ConfigError
from trainer.engine.stop import Stopped, ask_to_stop
from trainer.online import learner
from trainer.online.publisher import deployed_weights
from trainer.online.replay import ReplayBuffer
from trainer.online.state_manager import PolicyStateManager
from trainer.online.weights import unpack
from trainer.online_trainer import train_func

ONLINE: dict[str, Any] = {
    "workers": {"count": 0},
    "offline_steps": 4,
    "start_windows": 20,
    "publish": {"every_n_steps": 5},
}


def online(config: dict[str, Any]) -> None:
    config["online"] = ONLINE
    config["train"].update(epoch=None, max_steps=24)


def online_lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "online.jsonl").read_text().splitlines()]


class Watched(ReplayBuffer):
    """A replay buffer that notes for which updates it was drawn from."""

    draws: list[tuple[int, int, int]]

    def sample(self, batch_size: int, draw: Any = None, first: int = 0, updates: int = 1) -> Any:
        self.draws += [(batch_size, draw[1] + ahead, first) for ahead in range(updates)]
        return super().sample(batch_size, draw, first, updates)


class Manager(PolicyStateManager):
    """A manager that lets a robot collect when the first version comes, and keeps all weights."""

    def __init__(self, folder: Path, replay: ReplayBuffer) -> None:
        super().__init__(folder)
        self.replay = replay
        self.all: list[tuple[int | None, Any]] = []

    def update_weights(self, weights: Any, **known: Any) -> int:
        self.all.append((known["step"], unpack(weights)))
        version = super().update_weights(weights, **known)
        if version == 1:
            threading.Timer(0.2, self.collect).start()
        return version

    def collect(self) -> None:
        rng = np.random.default_rng(0)
        for number in range(2):
            state = rng.normal(size=(30, 5)).astype(np.float32)
            action = np.full((30, 2), 1000.0 + number, np.float32)
            self.replay.add({"observation.state": state, "action": action, "task": "follow"})


@pytest.fixture
def actors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Watched, Manager]:
    replay = Watched(tmp_path / "online", start_windows=20)
    replay.draws = []
    manager = Manager(tmp_path / "online", replay)
    use_local_actors(monkeypatch, replay_buffer=replay, policy_state_manager=manager)
    return replay, manager


def test_an_online_run_learns_from_both_publishes_and_notes(
    tiny_experiment: Callable[..., Path], tmp_path: Path, actors: tuple[Watched, Manager]
) -> None:
    replay, manager = actors
    run = train_func(str(tiny_experiment(online)))
    # Half of a batch of 16 is drawn, for every update after the offline ones, and some ahead.
    assert replay.draws[:20] == [(8, update, 0) for update in range(4, 24)]
    assert [step for step, _ in manager.all] == [4, 9, 14, 19, 24]
    lines = online_lines(run)
    assert [(line["step"], line["weights_version"]) for line in lines] == [(9, 1), (14, 2), (19, 3), (24, 4)]
    assert lines[-1]["collected_episodes"] == 2
    assert lines[-1]["collected_steps"] == 60
    # Actions that lie a thousand standard deviations away show in the loss, from the fifth update on.
    assert (
        max(line["total"] for line in metrics(run)[:4])
        < 100
        < min(line["total"] for line in metrics(run)[4:])
    )


def test_what_is_published_is_what_a_checkpoint_of_then_has(
    tiny_experiment: Callable[..., Path], tmp_path: Path, actors: tuple[Watched, Manager]
) -> None:
    run = train_func(str(tiny_experiment(online)))
    folder = run / (run / "latest").read_text().strip()
    step, weights = actors[1].all[-1]
    assert step == 24
    for name, state in weights.items():
        saved = torch.load(folder / f"{name}.pt", weights_only=True)
        assert state.keys() == saved.keys()
        assert all(torch.equal(torch.as_tensor(state[key]), saved[key]) for key in saved)


def test_update_ratio_is_never_overshot_by_draws_ahead(
    tiny_experiment: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Robots that are slow: at each draw the collected steps allow the update that it is for."""

    class Bounded(Watched):
        def sample(self, batch_size: int, draw: Any = None, first: int = 0, updates: int = 1) -> Any:
            last = draw[1] + updates - 1 - ONLINE["offline_steps"]
            early.append(max(0.0, last - (0.05 * self.counts().steps + 1)))
            together.append(updates)
            threading.Timer(0.05, manager.collect).start()
            return super().sample(batch_size, draw, first, updates)

    early: list[float] = []
    together: list[int] = []
    replay = Bounded(tmp_path / "slow", start_windows=20, update_ratio=0.05, update_slack=1)
    replay.draws = []
    manager = Manager(tmp_path / "slow", replay)
    use_local_actors(monkeypatch, replay_buffer=replay, policy_state_manager=manager)
    train_func(str(tiny_experiment(online)))
    assert max(early) == 0
    assert max(together) > 1, "updates are drawn for together where they may be"


@pytest.mark.slow
def test_two_ranks_on_a_cluster_learn_what_one_process_learns(
    tiny_experiment: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one buffer: all that is collected is there before the first mixed update."""
    pytest.importorskip("ray")
    path = tiny_experiment(online)
    one, two = tmp_path / "one", tmp_path / "two"
    shared = ["data.batch_size=null", "data.global_batch_size=16", "online.start_windows=60"]
    replay = ReplayBuffer(one / "online", start_windows=60)
    manager = Manager(one / "online", replay)
    use_local_actors(monkeypatch, replay_buffer=replay, policy_state_manager=manager)
    train_func({"config_path": str(path), "overrides": [*shared, f"train.save_dir={one}"]})

    shutil.copytree(one / "online/journal", two / "online/journal")
    shutil.copy(one / "online/description.json", two / "online")
    sets = [part for text in (*shared, f"train.save_dir={two}") for part in ("--set", text)]
    command = [sys.executable, "-m", "trainer.cli", "online", str(path), "--num-workers", "2", *sets]
    done = subprocess.run(command, cwd=ROOT, env=environment(), text=True, capture_output=True, timeout=900)
    assert done.returncode == 0, done.stderr
    totals = [[m["total"] for m in metrics(run)] for run in (one, two)]
    assert len(totals[0]) == 24
    np.testing.assert_allclose(totals[0], totals[1], rtol=1e-5)
    assert [line["weights_version"] for line in online_lines(two)] == [1, 2, 3, 4]
    assert online_lines(two)[-1]["collected_episodes"] == 2
    last = [weights(run / (run / "latest").read_text().strip()) for run in (one, two)]
    for name, value in last[0].items():
        torch.testing.assert_close(last[1][name], value, rtol=1e-3, atol=1e-5)


def test_a_learner_that_waits_for_robots_stops_on_a_signal_and_goes_on(
    tiny_experiment: Callable[..., Path], actors: tuple[Watched, Manager], monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = actors[1]
    collect = manager.collect
    monkeypatch.setattr(manager, "collect", lambda: ask_to_stop(15))
    path = tiny_experiment(online)
    try:
        with pytest.raises(Stopped):
            train_func(str(path))
    finally:
        ask_to_stop(0)
    run = path.parent / "run"
    assert (run / "latest").read_text().strip() == "step_4"
    collect()
    train_func(str(path))
    lines = online_lines(run)
    versions = [line["weights_version"] for line in lines]
    assert versions == sorted(set(versions)), "versions only rise, over restarts too"
    assert [step for step, _ in manager.all] == [4, 4, 9, 14, 19, 24]


def test_a_run_that_is_taken_up_is_the_undisturbed_one_where_the_buffer_is(
    tiny_experiment: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle, with actors that are made anew: buffer, version, step and order go on."""
    path = tiny_experiment(online)

    def actors_of(run: Path) -> tuple[Watched, Manager]:
        replay = Watched(run / "online", start_windows=60)  # all that is ever collected
        replay.draws = []
        manager = Manager(run / "online", replay)
        use_local_actors(monkeypatch, replay_buffer=replay, policy_state_manager=manager)
        return replay, manager

    def trained(run: Path) -> Path:
        return train_func({"config_path": str(path), "overrides": [f"train.save_dir={run}"]})

    whole, run = tmp_path / "whole", tmp_path / "stopped"
    actors_of(whole)
    trained(whole)
    before, manager = actors_of(run)

    def stopped_while_publishing(experiment: Any, bf16: bool) -> Any:
        if experiment.progress.iteration == 14:
            ask_to_stop(15)
        return deployed_weights(experiment, bf16)

    with monkeypatch.context() as patched:
        patched.setattr(learner, "deployed_weights", stopped_while_publishing)
        try:
            with pytest.raises(Stopped):
                trained(run)
        finally:
            ask_to_stop(0)
    manager.close()
    assert len(metrics(run)) == 14
    after, manager = actors_of(run)
    trained(run)
    assert after.draws[0][1] == 14, "the next update is drawn for, as if nothing had been"
    assert [step for step, _ in manager.all] == [14, 19, 24]
    assert [(m["step"], m["total"]) for m in metrics(run)] == [
        (m["step"], m["total"]) for m in metrics(whole)
    ]
    last = [weights(folder / (folder / "latest").read_text().strip()) for folder in (whole, run)]
    assert_same(last[0], last[1])
    versions = [line["weights_version"] for line in online_lines(run)]
    assert versions == sorted(set(versions))
    assert after.counts().episodes == before.counts().episodes == 2


def test_another_dataset_is_refused_with_what_differs(
    tiny_experiment: Callable[..., Path], actors: tuple[Watched, Manager]
) -> None:
    train_func(str(tiny_experiment(online)))

    def longer(config: dict[str, Any]) -> None:
        online(config)
        config["data"]["datamodule"]["params"]["obs_proprio_history"] = 1
        config["train"]["save_dir"] += "_other"

    with pytest.raises(Exception, match="were collected for other samples") as refused:
        train_func(str(tiny_experiment(longer, "other")))
    assert "observation.state" in str(refused.value)


def test_a_file_without_the_section_is_refused(tiny_experiment: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="there is no online section"):
        train_func(str(tiny_experiment()))


def test_what_robots_collect_joins_a_mixture_of_demonstrations(
    tiny_experiment: Callable[..., Path], tmp_path: Path, actors: tuple[Watched, Manager]
) -> None:
    """The robot is that of the first dataset, and its samples are mapped by its statistics."""
    second = write_dataset(tmp_path / "second", episodes=3, frames=40)

    def both(config: dict[str, Any]) -> None:
        online(config)
        config["data"]["validation"] = {"fraction": 0.3}
        params = config["data"]["datamodule"]["params"]
        del params["repo_id"], params["task_name"]
        one = {"type": "lerobot_dataset_factory", "params": params, "name": "one"}
        datasets = [one, {**one, "params": {**params, "root": str(second)}, "name": "two", "weight": 3}]
        config["plugins"].append("experiment_training.components.dataloader.mixture")
        config["data"]["datamodule"] = {
            "type": "mixture_dataset_factory",
            "params": {"task_name": "both", "datasets": datasets},
        }

    lines = metrics(train_func(str(tiny_experiment(both))))
    assert max(line["total"] for line in lines[:4]) < 100 < min(line["total"] for line in lines[4:])
    assert all(line["share one"] >= 0.5 for line in lines[4:])
