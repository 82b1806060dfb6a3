"""Actors of this process: what they are called with happens at once, without Ray."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trainer.config.loader import load_located
from trainer.engine.check import check
from trainer.engine.stop import WaitEnded, ask_to_stop, stop_asked
from trainer.online import learner
from trainer.online.replay import ReplayBuffer
from trainer.online.state_manager import PolicyStateManager
from trainer.online.worker import RolloutWorker, WorkerSettings
from trainer.online_trainer import train_func


class LocalActor:
    """Gives the methods of an object as those of an actor handle; a call returns its result."""

    def __init__(self, plain: Any) -> None:
        self.plain = plain

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self.plain, name))


def use_local_actors(monkeypatch: pytest.MonkeyPatch, **actors: Any) -> None:
    """Let a learner of this process find these objects as its actors, by name."""
    monkeypatch.setattr(learner, "find_actor", lambda name: LocalActor(actors[name]))
    monkeypatch.setattr(learner, "answer", _answer)
    monkeypatch.setattr(learner, "by_reference", lambda weights: weights)


def _answer(result: Any, whose: str) -> Any:
    """Return a result, which comes too late for a run that is asked to stop."""
    if stop_asked():
        raise WaitEnded(whose)
    return result


class LocalRun:
    """A whole online run in this process, whose worker collects in a thread beside the learner.

    Args:
        path: the experiment YAML.
        overrides: `dotted.path=value` texts.

    Attributes:
        run: the run folder.
        replay: its replay buffer.
        worker: who collects.
        failure: what the worker has raised; it ends the run.
    """

    def __init__(self, path: Path, overrides: Sequence[str] = ()) -> None:
        self._given = {"config_path": str(path), "overrides": list(overrides)}
        checked = check(load_located(path, overrides))
        config, online = checked.config, checked.config.online
        assert online is not None
        self.run = checked.run
        self.replay = ReplayBuffer(
            self.run / "online",
            online.replay.model_dump(),
            config.run_seed,
            expert_budget=online.expert_budget,
            start_windows=online.start_windows or config.data.batch_size,
            update_ratio=online.update_ratio,
            update_slack=online.update_slack,
        )
        self.manager = PolicyStateManager(self.run / "online")
        settings = WorkerSettings.of(config, config.collecting_env or "")
        self.worker = RolloutWorker(settings, self.manager, self.replay)
        self.failure: Exception | None = None

    def train(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Train, and write the dataset of what was collected.

        Raises:
            Exception: what the worker has raised, or the learner.
        """
        use_local_actors(monkeypatch, replay_buffer=self.replay, policy_state_manager=self.manager)
        robots = threading.Thread(target=self._collect)
        robots.start()
        try:
            train_func(self._given)
        finally:
            ask_to_stop(0)
            self.worker.stop()
            robots.join()
            self.manager.close()
            if self.failure is not None:
                raise self.failure
        self.replay.compact()

    def _collect(self) -> None:
        try:
            self.worker.run()
        except Exception as error:
            self.failure = error
            ask_to_stop(15)
