"""Windows that are drawn per second from the replay buffer and from torchrl's, each an actor of Ray.

    PYTHONPATH=.:policy_constructor <env>/bin/python benchmarks/replay_sampling.py

Run it with the Python of an environment where torchrl is installed beside what this project needs. One
process asks both for batches of 256 windows in turns, one after the other, and has tensors of its own in the
end. A window is two observations and sixteen actions. Here a call brings small batches of several updates, as
the learner draws them, or one. torchrl has the steps in three ways, and a call brings one batch:

- `slices`: one by one; a sample is a slice of all 17 steps that a window spans (`SliceSampler`).
- `windows`: every step is stored with its own window, so that a sample is one row (`RandomSampler`): the
  fastest there is, for twice the memory of pictures and sixteen times that of actions, and windows are fixed
  when a step is stored.
- `windows, distributed`: the same with torchrl's own transport in place of Ray's objects.

Prints JSON: windows per second of each, by the clock and by the time of the processor that all processes of
Ray and this one take, which other work hardly moves; medians over the rounds, and the ratios within a round.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import ray
import tensordict
import torch
import torchrl
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, RandomSampler, RayReplayBuffer, SliceSampler

from trainer.online.actors import lasting_actor
from trainer.online.ahead import DrawnAhead
from trainer.online.mixed import DrawKey, as_tensors
from trainer.online.replay import ReplayBuffer

BATCH, HORIZON, LENGTH = 256, 16, 100
STATE, ACTION, CAMERA = "observation.state", "action", "observation.images.head"
CASES = {"state": 100, "images": 20}
"""Case → episodes of 100 steps; with images of 96 × 96 pixels there is one camera."""

Steps = dict[str, np.ndarray]


def collect(case: str) -> list[Steps]:
    """Return episodes of random numbers, as large as those of Meta-World."""
    rng = np.random.default_rng(0)
    episodes = []
    for _ in range(CASES[case]):
        steps = {
            STATE: rng.normal(size=(LENGTH, 39)).astype(np.float32),
            ACTION: rng.normal(size=(LENGTH, 4)).astype(np.float32),
        }
        if case == "images":
            steps[CAMERA] = rng.integers(0, 256, (LENGTH, 3, 96, 96), np.uint8)
        episodes.append(steps)
    return episodes


def here(case: str, episodes: list[Steps], folder: Path) -> dict[str, Callable[[], int]]:
    """Return what draws a batch from our actor: as the learner does, and by a call for each."""
    facts: dict[str, Any] = {
        "fps": 10,
        "tasks": ["push"],
        "windows": {STATE: [-1, 0], ACTION: list(range(HORIZON))},
        "features": {
            STATE: {"dtype": "float32", "shape": [39], "names": None},
            ACTION: {"dtype": "float32", "shape": [4], "names": None},
        },
    }
    if case == "images":
        facts["windows"][CAMERA] = [-1, 0]
        facts["features"][CAMERA] = {"dtype": "video", "shape": [96, 96, 3], "names": None}
    actor = lasting_actor(case, ReplayBuffer).remote(str(folder / case), {"compact_every": 10**6})
    ray.get(actor.describe.remote(facts))
    for steps in episodes:
        ray.get(actor.add.remote(steps))

    updates = itertools.count()
    ahead = DrawnAhead(
        lambda count, key, several: ray.get(actor.sample.remote(count, (0, key.update), key.first, several))
    )

    def as_learner() -> int:
        return checked(ahead(BATCH, DrawKey(next(updates), 0)))

    def alone() -> int:
        return checked(ray.get(actor.sample.remote(BATCH, (0, next(updates)))))

    def checked(drawn: Mapping[str, Any]) -> int:
        assert as_tensors(drawn)[ACTION].shape == (BATCH, HORIZON, 4)
        return BATCH

    return {"here": as_learner, "here, a call each": alone}


def windows_of(steps: Steps) -> Steps:
    """Return every step of an episode with its window, as `windows` stores it."""
    rows = np.arange(LENGTH)[:, None]
    history = np.clip(rows + np.array([-1, 0]), 0, LENGTH - 1)
    chunk = np.clip(rows + np.arange(HORIZON), 0, LENGTH - 1)
    return {name: column[chunk if name == ACTION else history] for name, column in steps.items()}


def there(way: str, episodes: list[Steps]) -> Callable[[], int]:
    """Return what draws a batch from torchrl's actor."""
    span = HORIZON + 1
    sliced = way == "slices"
    sampler = (
        functools.partial(SliceSampler, slice_len=span, traj_key="episode", strict_length=True)
        if sliced
        else RandomSampler
    )
    count = BATCH * span if sliced else BATCH
    buffer = RayReplayBuffer(
        storage=functools.partial(LazyTensorStorage, len(episodes) * LENGTH),
        sampler=sampler,
        batch_size=count,
        remote_config={"num_cpus": 0},
        transport="distributed" if way.endswith("distributed") else "auto",
    )
    for number, steps in enumerate(episodes):
        stored = {name: torch.from_numpy(c) for name, c in (steps if sliced else windows_of(steps)).items()}
        episode = torch.full((LENGTH,), number)
        buffer.extend(TensorDict({**stored, "episode": episode}, [LENGTH]))

    def draw() -> int:
        sample = buffer.sample()
        if sliced:
            sample = sample.reshape(BATCH, span)
            assert sample[STATE][:, :2].shape == (BATCH, 2, 39)
            assert sample[ACTION][:, 1:].shape == (BATCH, HORIZON, 4)
        else:
            assert sample[ACTION].shape == (BATCH, HORIZON, 4)
        return BATCH

    return draw


def processor_seconds() -> float:
    """Return the time of the processor that this process and all of Ray's have taken."""
    parents, ticks = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rsplit(")", 1)[1].split()
            parents[int(stat.parent.name)] = int(fields[1])
            ticks[int(stat.parent.name)] = int(fields[11]) + int(fields[12])
    family, grown = {os.getpid()}, 0
    while grown < len(family):
        grown = len(family)
        family |= {process for process, parent in parents.items() if parent in family}
    return sum(ticks[process] for process in family) / os.sysconf("SC_CLK_TCK")


def turn(draw: Callable[[], int], seconds: float) -> tuple[float, float]:
    """Return windows per second of the clock, and of the processor."""
    windows, used, began = 0, processor_seconds(), time.perf_counter()
    while time.perf_counter() - began < seconds:
        windows += draw()
    elapsed = time.perf_counter() - began
    return windows / elapsed, windows / (processor_seconds() - used)


def measure(case: str, folder: Path, rounds: int, seconds: float) -> dict[str, Any]:
    """Return medians over the rounds, and the range of the ratios."""
    episodes = collect(case)
    sides = here(case, episodes, folder)
    for way in ("slices", "windows", "windows, distributed"):
        sides[way] = there(way, episodes)
    for draw in sides.values():
        for _ in range(10):
            draw()
    speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, draw in sides.items():
            speeds[name].append(turn(draw, seconds))
    return {
        by: compared({name: [turn[place] for turn in turns] for name, turns in speeds.items()})
        for place, by in enumerate(("clock", "processor"))
    }


def compared(speeds: dict[str, list[float]]) -> dict[str, Any]:
    """Return medians, and the median and range of the ratios of turns of one round."""
    found: dict[str, Any] = {"windows_per_s": {n: round(statistics.median(v)) for n, v in speeds.items()}}
    for own, name in itertools.product(list(speeds)[:2], list(speeds)[2:]):
        ratios = sorted(one / other for one, other in zip(speeds[own], speeds[name], strict=True))
        middle, *ends = (round(r, 2) for r in (statistics.median(ratios), ratios[0], ratios[-1]))
        found[f"{own} / {name}"] = f"{middle} ({ends[0]} to {ends[1]})"
    return found


def main() -> None:
    """Measure both cases."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each side in a round")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    # The workers find what this process finds.
    environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}}
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env=environment,
    )
    result: dict[str, Any] = {
        "versions": {m.__name__: m.__version__ for m in (torch, np, ray, torchrl, tensordict)},
    }
    try:
        with tempfile.TemporaryDirectory() as folder:
            for case in options.cases:
                result[case] = measure(case, Path(folder), options.rounds, options.seconds)
    finally:
        ray.shutdown()
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
