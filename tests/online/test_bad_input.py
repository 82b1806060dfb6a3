"""What is wrong comes back as one clear sentence; nothing of it is stored, and nobody waits for ever."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.actors import LocalRun
from helpers.online_robots import Drift

from trainer.online import worker
from trainer.online_trainer import train_func
from trainer.templates import SimulatorStep
from trainer.utils.errors import UsageError

STATE = "observation.state"
Tiny = Callable[..., Path]


def experiment(tiny_experiment: Tiny, env: str = "drifting", **online: Any) -> Path:
    """Write an experiment whose robots begin after two updates."""

    def change(config: dict[str, Any]) -> None:
        config["train"].update(epoch=None, max_steps=12)
        workers = {"env": env, "envs": 2}
        config["online"] = {"offline_steps": 2, "workers": workers, "publish": {"every_n_steps": 2}, **online}

    return tiny_experiment(change)


def measuring(change: Callable[[Mapping[str, Any]], dict[str, Any]]) -> type:
    """Return a simulator that measures something else from its sixth step on."""

    class Broken(Drift):
        def step(self, action: np.ndarray) -> SimulatorStep:
            step = super().step(action)
            return step._replace(observation=change(step.observation)) if self.steps > 5 else step

    return Broken


FAILING = {
    "mode": "hg_dagger",
    "expert": {"type": "by_the_clock", "params": {"fails": 3}},
}
ROBOTS: dict[str, tuple[dict[str, Any], str]] = {
    "an expert that raises": (
        FAILING,
        "the expert 'by_the_clock' failed at step 3 of the episode with start seed .* (RuntimeError: the "
        "cable came loose), and in the 2 episodes before it; none of them is kept",
    ),
    "an episode shorter than the window": (
        {"env": "drifting/by:3"},
        "the episode of 'worker_0' has 3 steps, fewer than the 4 of the longest window, that of 'action'; it "
        "was not stored",
    ),
    "NaN": (
        {"robot": measuring(lambda seen: {STATE: seen[STATE] * np.float32("nan")})},
        "the observation 'observation.state' has NaN or an infinite number; the policy needs float32 numbers "
        "of shape .*",
    ),
    "a wrong shape": (
        {"robot": measuring(lambda seen: {STATE: seen[STATE][:3]})},
        "the observation 'observation.state' has shape .*; the policy needs .*",
    ),
    "a missing key": (
        {"robot": measuring(lambda seen: {"observation.stat": seen[STATE]})},
        "the policy needs observation.state: 5 float32, normalized by mean_std; it was given "
        "observation.stat",
    ),
}


@pytest.mark.parametrize("case", ROBOTS)
def test_what_a_robot_does_wrong_ends_the_run_with_one_sentence(
    case: str, tiny_experiment: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, sentence = ROBOTS[case]
    robot = given.get("robot")
    if robot is not None:
        monkeypatch.setattr(worker, "make_simulator", lambda env: robot())
    given = {name: value for name, value in given.items() if name != "robot"}
    online = LocalRun(experiment(tiny_experiment, **given))
    with pytest.raises(UsageError) as refused:
        online.train(monkeypatch)
    pattern = ".*".join(map(re.escape, sentence.split(".*")))
    assert re.fullmatch(pattern, str(refused.value))
    assert online.replay.size() == (0, 0)
    assert online.replay.counts().episodes == 0
    assert not list((online.run / "online/journal").iterdir())


def test_weights_of_another_architecture_end_the_run_before_robots_take_them_up(
    tiny_experiment: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    online = LocalRun(experiment(tiny_experiment))
    online.manager.update_weights({"velocity_decoder": {"weight": np.zeros(3, np.float32)}})
    monkeypatch.setattr(online.worker, "run", lambda: None)
    with pytest.raises(
        UsageError, match=r"^these weights have other names, shapes or types than version 1"
    ) as e:
        online.train(monkeypatch)
    assert "\n" not in str(e.value)
    assert online.manager.version() == 1
    assert not list((online.run / "online/journal").iterdir())


def test_a_learner_without_actors_says_what_is_missing_and_starts_no_cluster(tiny_experiment: Tiny) -> None:
    ray = pytest.importorskip("ray")
    if ray.is_initialized():
        pytest.skip("this process belongs to a cluster of another test")
    with pytest.raises(
        UsageError, match="there is no actor 'replay_buffer', because this process belongs to no"
    ):
        train_func(str(experiment(tiny_experiment)))
    assert not ray.is_initialized()
