"""Recording demonstrations of a simulator's scripted expert as a LeRobot dataset."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_constructor import did_you_mean

from trainer.config.paths import expanded
from trainer.data.lerobot import LeRobotWriter
from trainer.evaluation.demonstrations import (
    STEPS_AFTER_SUCCESS,
    Features,
    ScriptedExpert,
    demonstrate,
)
from trainer.evaluation.rollout import fit_cameras
from trainer.evaluation.simulators import make_simulator
from trainer.evaluation.starts import start_seed_sequence
from trainer.templates import Simulator
from trainer.templates.simulator import RecordsThroughCameras
from trainer.utils.errors import UsageError
from trainer.utils.progress import progress_bar
from trainer.utils.versions import library_versions

CAMERA_SIZE = 96
"""Edge of the recorded pictures in px, where nothing else is asked for."""

_ATTEMPTS_PER_EPISODE = 10  # an expert that fails more often than that is no expert of this task


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
        kept: the dataset was there before, made with the same `env`, `episodes`, `seed` and cameras.
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
    env: str,
    episodes: int,
    seed: int,
    out: Path,
    *,
    cameras: Sequence[str] = (),
    camera_size: int = CAMERA_SIZE,
    processes: int | None = None,
    progress: bool = True,
    overwrite: bool = False,
) -> RecordingSummary:
    """Record successful episodes of a scripted expert; equal arguments give equal bytes.

    The dataset appears at `out` when it is complete. A dataset that is there already and was recorded with
    the same `env`, `episodes`, `seed` and cameras is kept.

    Args:
        env: name of the simulator and task, such as `metaworld/pick-place-v3`.
        episodes: how many demonstrations.
        seed: chooses the starts; see `trainer.evaluation.starts`.
        out: folder of the dataset.
        cameras: names of the simulator's cameras, such as `cam_head` for `observation.images.cam_head`; with
            them its sensors are recorded too. Without, the dataset has no pictures.
        camera_size: edge of the pictures in px, an even number.
        processes: that play and draw; as many as there are cores if not given, but this one alone without
            cameras, where starting others takes longer than playing. They change the time only. Each imports
            the main module, so a script of your own guards its work by `if __name__ == "__main__":`.
        progress: show a progress bar on stderr.
        overwrite: replace another LeRobot dataset at `out`.

    Raises:
        UsageError: no such simulator or camera, it has no expert, the expert hardly ever succeeds, nothing
            can be drawn, `out` is taken or cannot be written; one sentence says which.
    """
    out = expanded(out).absolute()
    if episodes < 1:
        raise UsageError(f"at least one episode must be recorded, and {episodes} were asked for")
    asked: dict[str, Any] = {"recorded_with": env, "seed": seed}
    if cameras:
        asked["cameras"] = {"names": list(dict.fromkeys(cameras)), "size": camera_size}
    kept = _find_existing(out, asked, episodes, overwrite)
    if kept is not None:
        return kept
    _check_writable(out)
    simulator = make_simulator(env)
    try:
        if not isinstance(simulator, ScriptedExpert):
            raise UsageError(f"{env} has no scripted expert, so its demonstrations must come from elsewhere")
        features = _features(simulator, env, cameras, camera_size)
        fit_cameras(simulator, {name: one["shape"][0] for name, one in features.items()})
        if processes is None:
            processes = (os.cpu_count() or 1) if cameras else 1
        began = time.perf_counter()
        frames, attempts = _write(
            out, simulator, features, asked, episodes, min(processes, episodes), progress
        )
        return RecordingSummary(out, env, episodes, frames, attempts, time.perf_counter() - began, kept=False)
    finally:
        simulator.close()


def _features(simulator: Simulator, env: str, cameras: Sequence[str], size: int) -> Features:
    """Return what is recorded: the features, and with cameras the sensors and these cameras."""
    if not cameras:
        return simulator.features
    if not isinstance(simulator, RecordsThroughCameras):
        raise UsageError(f"{env} has no cameras to record through; leave them out")
    known = {name.rpartition(".")[2]: name for name in simulator.cameras}
    for name in cameras:
        if name not in known:
            raise UsageError(f"{env} has no camera '{name}'; {did_you_mean(name, known, 'it has')}")
    seen = {known[name]: {**simulator.cameras[known[name]], "shape": (size, size, 3)} for name in cameras}
    return {**simulator.features, **simulator.sensors, **seen}


def _write(
    out: Path,
    simulator: Simulator,
    features: Features,
    asked: dict[str, Any],
    episodes: int,
    processes: int,
    progress: bool,
) -> tuple[int, int]:
    """Record; an older dataset makes way when the new one is whole.

    Returns:
        The number of frames and of attempts.
    """
    env: str = asked["recorded_with"]
    robot, _, task = env.partition("/")
    attempts = frames = 0
    starts: list[int] = []
    metadata: dict[str, Any] = {}
    sequence = start_seed_sequence(asked["seed"], "recording")
    with (
        LeRobotWriter(
            out,
            fps=simulator.fps,
            features=features,
            replace=out.exists(),
            robot_type=robot,
            metadata=metadata,
        ) as writer,
        progress_bar(episodes, f"recording {env}", unit="episode", disable=not progress) as bar,
    ):
        for start, columns in demonstrate(simulator, env, sequence, features, episodes, processes):
            attempts += 1
            if columns is not None:
                writer.add_episode(columns, task or env)
                starts.append(start)
                frames += len(columns["action"])
                bar.update()
            bar.set_postfix_str(f"expert {len(starts) / attempts:.0%}, {frames} frames", refresh=False)
            if attempts == _ATTEMPTS_PER_EPISODE * episodes and len(starts) < episodes:
                raise UsageError(
                    f"the expert of {env} succeeded at {len(starts)} of {attempts} starts only, "
                    "so nothing was recorded"
                )
        metadata |= asked | {
            "attempts": attempts,
            "start_seeds": starts,
            "steps_after_success": STEPS_AFTER_SUCCESS,
            "versions": library_versions(),
        }
    return frames, attempts


def _find_existing(
    out: Path, asked: dict[str, Any], episodes: int, overwrite: bool
) -> RecordingSummary | None:
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
    identity = ("recorded_with", "seed", "cameras")
    if found == episodes and all(made.get(key) == asked.get(key) for key in identity):
        return RecordingSummary(
            out, asked["recorded_with"], episodes, frames, made.get("attempts", found), 0.0, kept=True
        )
    if overwrite:
        return None
    origin = (
        f"of {made['recorded_with']}, seed {made.get('seed')}{_through(made)}"
        if "recorded_with" in made
        else "of unknown origin"
    )
    raise UsageError(
        f"{out} already holds another dataset ({found} episodes {origin}): "
        "choose another folder, or replace it with --overwrite"
    )


def _through(made: dict[str, Any]) -> str:
    """Say through which cameras a dataset was recorded."""
    cameras = made.get("cameras")
    return f", through {', '.join(cameras['names'])} of {cameras['size']} px" if cameras else ", no cameras"


def _check_writable(out: Path) -> None:
    """Refuse a folder that cannot be made, before the work and not after it."""
    parent = next(p for p in out.parents if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise UsageError(f"{out} cannot be made: {parent} is no folder that can be written to")
