"""Episodes of a scripted expert, played in one process or in several, in the order of their starts."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol, runtime_checkable

import numpy as np

from trainer.evaluation.rollout import fit_cameras, picture_of
from trainer.evaluation.simulators import make_simulator
from trainer.templates import Simulator
from trainer.utils.errors import UsageError

STEPS_AFTER_SUCCESS = 10
"""A demonstration goes on for so many steps after its first success: enough to show that the goal is held;
later the experts drift off again."""

Features = Mapping[str, Mapping[str, Any]]
"""LeRobot feature descriptions by name: what is recorded."""

Demonstration = dict[str, np.ndarray]
"""The columns `(T, …)` of an episode, by feature."""


@runtime_checkable
class ScriptedExpert(Protocol):
    """A simulator that knows how its task is done."""

    def expert_action(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        """Return the expert's action `(A,)` for an observation of the running episode."""
        ...


def demonstrate_once(
    simulator: Simulator, start_seed: int, features: Features | None = None
) -> Demonstration | None:
    """Play one episode of the expert; return its columns `(T, …)`, or None if it failed.

    Row t holds the observation at step t, what the cameras saw then, and the action that the expert took
    upon it.

    Args:
        simulator: which has an expert.
        start_seed: where the episode starts.
        features: what is recorded; the simulator's own `features` if not given.

    Raises:
        UsageError: there are cameras among them, and nothing can be drawn on this machine.
    """
    assert isinstance(simulator, ScriptedExpert)
    columns: dict[str, list[np.ndarray]] = {name: [] for name in features or simulator.features}
    observation = simulator.reset(start_seed)
    steps_left, succeeded = simulator.max_steps, False
    while steps_left > 0:
        action = simulator.expert_action(observation)
        for name, rows in columns.items():
            if name == "action":
                rows.append(action)
            elif name in observation:
                rows.append(observation[name])
            else:
                rows.append(picture_of(simulator, name, "the recording"))
        step = simulator.step(action)
        observation = step.observation
        steps_left -= 1
        if step.success and not succeeded:
            succeeded = True
            steps_left = min(steps_left, STEPS_AFTER_SUCCESS)
        if step.done:
            break
    return {name: np.stack(rows) for name, rows in columns.items()} if succeeded else None


def demonstrate(
    simulator: Simulator, env: str, starts: Iterator[int], features: Features, episodes: int, processes: int
) -> Iterator[tuple[int, Demonstration | None]]:
    """Yield every start that is played, in order, with its demonstration or None, until enough succeeded.

    Args:
        simulator: one of the environment.
        env: its name, from which processes make their own.
        starts: start seeds without end.
        features: what is recorded.
        episodes: how many must succeed.
        processes: that play; with 1 it is this process, with `simulator`. They change the time only.

    Raises:
        UsageError: nothing can be drawn, or a process died.
    """
    if processes == 1:
        while episodes > 0:
            start = next(starts)
            columns = demonstrate_once(simulator, start, features)
            episodes -= columns is not None
            yield start, columns
        return
    module = type(simulator).__module__  # which registers it, also where it is a plugin's
    pool = ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), _begin, (env, module, dict(features))
    )
    played: deque[tuple[int, Future[Demonstration | None]]] = deque()
    try:
        while episodes > 0:
            while len(played) < min(2 * processes, episodes):
                start = next(starts)
                played.append((start, pool.submit(_play, start)))
            start, future = played.popleft()
            columns = future.result()
            episodes -= columns is not None
            yield start, columns
    except BrokenProcessPool as error:
        raise UsageError(
            "a process that records has died; if memory is short, give --processes a smaller number"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_playing: tuple[Simulator, Features] | None = None  # of a process that records


def _begin(env: str, module: str, features: Features) -> None:
    """Make the simulator of a process that records."""
    global _playing
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that gives the work ends it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.setdefault(
        "LP_NUM_THREADS", "0"
    )  # Mesa draws in the calling thread: the others have the cores
    if module != "__main__":  # which every process has imported
        importlib.import_module(module)
    simulator = make_simulator(env)
    fit_cameras(simulator, {name: one["shape"][0] for name, one in features.items()})
    _playing = simulator, features


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _play(start_seed: int) -> Demonstration | None:
    assert _playing is not None
    simulator, features = _playing
    return demonstrate_once(simulator, start_seed, features)
