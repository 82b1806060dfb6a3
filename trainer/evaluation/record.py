"""Recording demonstrations of a simulator's scripted expert as a LeRobot dataset."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from trainer.data.lerobot import LeRobotWriter
from trainer.evaluation.simulators import make_simulator
from trainer.evaluation.starts import start_seed_sequence
from trainer.templates import Simulator
from trainer.utils.errors import UsageError
from trainer.utils.progress import progress_bar
from trainer.utils.versions import library_versions

STEPS_AFTER_SUCCESS = 10
"""A demonstration goes on for so many steps after its first success: enough to show that the goal is held;
later the experts drift off again."""

_ATTEMPTS_PER_EPISODE = 10  # an expert that fails more often than that is no expert of this task


@runtime_checkable
class ScriptedExpert(Protocol):
    """A simulator that knows how its task is done."""

    def expert_action(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        """Return the expert's action `(A,)` for an observation of the running episode."""
        ...


@dataclass(frozen=True)
class RecordingSummary:
    """What a recording led to.

    Attributes:
        root: folder of the dataset.
        env: name of the simulator and task.
        episodes: recorded demonstrations, all successful.
        frames: control steps of all demonstrations together.
        attempts: episodes played; those beyond `episodes` failed and were not recorded.
        seconds: time that it took; 0 where the dataset was there before.
        kept: the dataset was there before, made with the same `env`, `episodes` and `seed`.
    """

    root: Path
    env: str
    episodes: int
    frames: int
    attempts: int
    seconds: float
    kept: bool

    def summary(self) -> str:
        """Return one sentence."""
        what = f"{self.episodes} demonstrations of {self.env} ({self.frames} frames)"
        if self.kept:
            return f"{self.root} already has these {what}, so nothing was recorded."
        failed = self.attempts - self.episodes
        expert = f"the expert failed at {failed} of {self.attempts} starts"
        return f"Recorded {what} in {self.seconds:.1f} s to {self.root}; {expert}."


def record(
    env: str, episodes: int, seed: int, out: Path, *, progress: bool = True, overwrite: bool = False
) -> RecordingSummary:
    """Record successful episodes of a scripted expert; equal arguments give equal bytes.

    The dataset appears at `out` when it is complete. A dataset that is there already and was recorded with
    the same `env`, `episodes` and `seed` is kept.

    Args:
        env: name of the simulator and task, such as `metaworld/pick-place-v3`.
        episodes: how many demonstrations.
        seed: chooses the starts; see `trainer.evaluation.starts`.
        out: folder of the dataset.
        progress: show a progress bar on stderr.
        overwrite: replace another LeRobot dataset at `out`.

    Raises:
        UsageError: no such simulator, it has no expert, the expert hardly ever succeeds, `out` is taken or
            cannot be written; one sentence says which.
    """
    out = out.expanduser().absolute()
    if episodes < 1:
        raise UsageError(f"at least one episode must be recorded, and {episodes} were asked for")
    kept = _find_existing(out, env, episodes, seed, overwrite)
    if kept is not None:
        return kept
    _check_writable(out)
    simulator = make_simulator(env)
    try:
        if not isinstance(simulator, ScriptedExpert):
            raise UsageError(f"{env} has no scripted expert, so its demonstrations must come from elsewhere")
        began = time.perf_counter()
        demonstrations, starts, attempts = _demonstrate(simulator, env, episodes, seed, progress)
        metadata = {
            "recorded_with": env,
            "seed": seed,
            "attempts": attempts,
            "start_seeds": starts,
            "steps_after_success": STEPS_AFTER_SUCCESS,
            "versions": library_versions(),
        }
        _write(out, simulator, env, demonstrations, metadata)
        frames = sum(len(d["action"]) for d in demonstrations)
        return RecordingSummary(out, env, episodes, frames, attempts, time.perf_counter() - began, kept=False)
    finally:
        simulator.close()


def demonstrate_once(simulator: Simulator, start_seed: int) -> dict[str, np.ndarray] | None:
    """Play one episode of the expert; return its columns `(T, …)`, or None if it failed.

    Row t holds the observation at step t and the action that the expert took upon it.
    """
    assert isinstance(simulator, ScriptedExpert)
    columns: dict[str, list[np.ndarray]] = {name: [] for name in simulator.features}
    observation = simulator.reset(start_seed)
    steps_left, succeeded = simulator.max_steps, False
    while steps_left > 0:
        action = simulator.expert_action(observation)
        for name, rows in columns.items():
            rows.append(action if name == "action" else observation[name])
        step = simulator.step(action)
        observation = step.observation
        steps_left -= 1
        if step.success and not succeeded:
            succeeded = True
            steps_left = min(steps_left, STEPS_AFTER_SUCCESS)
        if step.done:
            break
    return {name: np.stack(rows) for name, rows in columns.items()} if succeeded else None


def _demonstrate(
    simulator: Simulator, env: str, episodes: int, seed: int, progress: bool
) -> tuple[list[dict[str, np.ndarray]], list[int], int]:
    """Return demonstrations, their start seeds, and the number of attempts.

    They are held in memory (a minute of numbers is a megabyte) and written at the end, because the
    dataset tells which starts it took.
    """
    demonstrations: list[dict[str, np.ndarray]] = []
    starts: list[int] = []
    attempts = frames = 0
    sequence = start_seed_sequence(seed, "recording")
    with progress_bar(episodes, f"recording {env}", unit="episode", disable=not progress) as bar:
        while len(demonstrations) < episodes:
            if attempts >= _ATTEMPTS_PER_EPISODE * episodes:
                raise UsageError(
                    f"the expert of {env} succeeded at {len(demonstrations)} of {attempts} starts only, "
                    "so nothing was recorded"
                )
            start = next(sequence)
            columns = demonstrate_once(simulator, start)
            attempts += 1
            if columns is not None:
                demonstrations.append(columns)
                starts.append(start)
                frames += len(columns["action"])
                bar.update()
            bar.set_postfix_str(
                f"expert {len(demonstrations) / attempts:.0%}, {frames} frames", refresh=False
            )
    return demonstrations, starts, attempts


def _write(
    out: Path,
    simulator: Simulator,
    env: str,
    demonstrations: list[dict[str, np.ndarray]],
    metadata: dict[str, Any],
) -> None:
    """Write beside an older dataset if there is one, and let it go when the new one is whole."""
    target = out.with_name(f"{out.name}.new") if out.exists() else out
    if target != out:
        shutil.rmtree(target, ignore_errors=True)
    robot, _, task = env.partition("/")
    with LeRobotWriter(
        target, fps=simulator.fps, features=simulator.features, robot_type=robot, metadata=metadata
    ) as writer:
        for columns in demonstrations:
            writer.add_episode(columns, task or env)
    if target != out:
        shutil.rmtree(out)
        os.rename(target, out)


def _find_existing(out: Path, env: str, episodes: int, seed: int, overwrite: bool) -> RecordingSummary | None:
    """Return the dataset at `out` if it is the one asked for; refuse whatever else is there."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        if out.exists():
            out.rmdir()
        return None
    try:
        info = json.loads((out / "meta" / "info.json").read_text(encoding="utf-8"))
        made, frames, found = info.get("trainer") or {}, info["total_frames"], info["total_episodes"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{out} exists and is no LeRobot dataset; choose another folder") from None
    if (made.get("recorded_with"), found, made.get("seed")) == (env, episodes, seed):
        return RecordingSummary(out, env, episodes, frames, made.get("attempts", found), 0.0, kept=True)
    if overwrite:
        return None
    origin = (
        f"of {made['recorded_with']}, seed {made.get('seed')}"
        if "recorded_with" in made
        else "of unknown origin"
    )
    raise UsageError(
        f"{out} already holds another dataset ({found} episodes {origin}): "
        "choose another folder, or replace it with --overwrite"
    )


def _check_writable(out: Path) -> None:
    """Refuse a folder that cannot be made, before the work and not after it."""
    parent = next(p for p in out.parents if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise UsageError(f"{out} cannot be made: {parent} is no folder that can be written to")
