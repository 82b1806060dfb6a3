"""A robot of one's own: what its control loop calls to act with the newest policy and to hand in episodes."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from trainer.data.columns import ACTION, Column
from trainer.online.actors import MANAGER, REPLAY, find_actor
from trainer.online.current_policy import CurrentPolicy
from trainer.online.episode import AUTO, HUMAN
from trainer.online.recorder import Recorder, recorded_columns
from trainer.online.remote import Remote
from trainer.runtime.ray.cluster import check_reachable, import_ray
from trainer.utils.errors import UsageError


class OnlineRobot:
    """Acts with the newest policy of a run that trains, and hands in what was done.

    A control loop calls `act` once per control step and `end_episode` at the end of each episode:

        robot = OnlineRobot("arm", address="192.168.1.10:6379")
        while True:
            observation = measure()
            action = robot.act(observation, intervention=teleoperated())
            move(action)
            if over():
                robot.end_episode(success=reached())

    Newer weights are taken up between episodes.

    Args:
        name: of the robot; no two have one name.
        address: of the Ray cluster on which the run trains, as for `ray.init`; None where this process is
            connected already.
        namespace: of the run's actors, if it has one of its own.
        device: where the policy computes: `auto`, `cpu`, `cuda` or `cuda:N`.
        n_action_steps: actions executed of each chunk; the policy's own number if not given.
        patience: seconds to wait for the first weights.
        manager: stands for the actor of the run, in a process without Ray.
        replay: likewise.

    Raises:
        UsageError: the run is not there, or it has published no weights in time.
    """

    def __init__(
        self,
        name: str,
        address: str | None = None,
        namespace: str | None = None,
        device: str = "auto",
        n_action_steps: int | None = None,
        patience: float = 600.0,
        manager: Any = None,
        replay: Any = None,
    ) -> None:
        if manager is None or replay is None:
            _connect(address)
        self.name = name
        self._replay = replay or Remote(find_actor(REPLAY, namespace), REPLAY)
        manager = manager or Remote(find_actor(MANAGER, namespace), MANAGER)
        self._current = CurrentPolicy(manager, name, device, n_action_steps)
        if not self._current.wait(timeout=patience):
            raise UsageError(
                f"the run has published no weights in {patience:g} s; robots collect once "
                "online.offline_steps are over"
            )
        self._columns: dict[str, Column] = recorded_columns(self._current.facts)
        self._life = f"{time.time_ns():x}"
        self._played = 0
        self._recorder: Recorder | None = None

    @property
    def version(self) -> int:
        """The version of the weights that act."""
        return self._current.version

    @property
    def fps(self) -> float | None:
        """Control steps per second at which the demonstrations were recorded."""
        assert self._current.policy is not None
        return self._current.policy.fps

    @property
    def observations(self) -> dict[str, Column]:
        """What `act` must be given; feature → shape and type, as in the dataset."""
        return {name: column for name, column in self._columns.items() if name != ACTION}

    def begin_episode(self) -> None:
        """Begin an episode, for which newer weights are taken up now; `act` does it where nobody did."""
        self._current.refresh()
        assert self._current.policy is not None
        self._current.policy.reset(self._played)
        self._recorder = Recorder(self._columns, self.name)

    def act(
        self, observation: Mapping[str, np.ndarray], intervention: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the action to execute now, `(A,)`, and note it.

        Args:
            observation: feature → value, raw, of everything in `observations`; pictures `(H, W, 3)` or
                `(3, H, W)`.
            intervention: what a person does instead, `(A,)`, which is then returned and learnt.

        Raises:
            ValueError: something is missing, or is not what the dataset can hold; nothing is noted then.
        """
        if self._recorder is None:
            self.begin_episode()
        policy, recorder = self._current.policy, self._recorder
        assert policy is not None
        assert recorder is not None
        action = policy.act(observation)  # also while a person acts: it remembers what was seen
        mode, labelled = AUTO, intervention is not None
        if intervention is not None:
            action, mode = np.asarray(intervention, action.dtype), HUMAN
        recorder.add(observation, action, mode, labelled, self._current.version)
        return action

    def end_episode(self, success: bool, task: str = "") -> int | None:
        """Hand in the episode, and return its number; None if there was no step.

        Args:
            success: whether the robot came to its goal.
            task: what it was to do, in words; the task of the demonstrations if not given.

        Raises:
            EpisodeError: it cannot be trained on, such as one that is too short; it is dropped.
        """
        recorder, self._recorder = self._recorder, None
        if recorder is None or not len(recorder):
            return None
        tasks = self._current.facts.get("tasks") or ("",)
        self._played += 1
        episode = recorder.episode(task or str(next(iter(tasks))), success)
        number: int = self._replay.add(episode, key=f"{self._life}-{self._played}")
        return number

    def drop_episode(self) -> None:
        """Forget the episode so far, such as one in which something went wrong."""
        self._recorder = None


def _connect(address: str | None) -> None:
    ray = import_ray()
    if ray.is_initialized():
        return
    if address is None:
        raise UsageError(
            "no Ray cluster is connected; give OnlineRobot the address that the run was started with, such "
            "as auto on the same machine"
        )
    if ":" in address:
        check_reachable(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        reason = " ".join(str(error).split())[:300]
        hint = "" if "RAY_AUTH_MODE" in os.environ else "; if it asks for a token, set RAY_AUTH_MODE=token"
        raise UsageError(f"the Ray cluster at '{address}' cannot be used: {reason}{hint}") from error
