"""Episodes as robots send them, for a small dataset with numbers, flags and two cameras."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from helpers.dataset_samples import FEATURES, episode_columns, make_episodes, write_dataset
from trainer.data.dataset import WindowedDataset
from trainer.data.lerobot import LeRobotReader
from trainer.data.windows import Window
from trainer.online.episode import AUTO, Episode

STATE, ACTION = "observation.state", "action"
BESIDE = ["next.reward", "next.done", "phase"]
WINDOWS = (Window(STATE, (-2, -1, 0)), Window("observation.touch", (0,)), Window(ACTION, (0, 1, 2, 3)))
CAMERAS = {"observation.images.top": (3, 8, 12), "observation.images.wrist": (3, 8, 10)}


def demonstrations(root: Path, lengths: tuple[int, ...] = (7, 5, 12), **options: Any) -> WindowedDataset:
    """Write a dataset and return it; its episodes are those of `make_episodes(lengths)`."""
    write_dataset(root, make_episodes(lengths))
    return WindowedDataset(LeRobotReader(root), WINDOWS, extra_columns=BESIDE, **options)


def plain_facts() -> dict[str, Any]:
    """Return the facts of a dataset with a state of 3 and an action of 2 numbers."""
    return {
        "fps": 10,
        "windows": {STATE: [-1, 0], ACTION: [0, 1, 2, 3]},
        "features": {name: FEATURES[name] for name in (STATE, ACTION)},
        "tasks": ["reach"],
    }


def seeing_facts() -> dict[str, Any]:
    """Return those of one with two cameras too, of which one has a history."""
    facts = plain_facts()
    for name, (_, height, width) in CAMERAS.items():
        facts["features"][name] = {"dtype": "video", "shape": [height, width, 3], "names": None}
    top, wrist = CAMERAS
    facts["windows"] |= {top: [0], wrist: [-1, 0]}
    return facts


def collected(
    length: int = 10,
    seed: int = 0,
    *,
    mode: Any = AUTO,
    labelled: Any = False,
    version: int = 1,
    success: bool = True,
    cameras: bool = False,
    **about: Any,
) -> Episode:
    """Return an episode of random numbers for `plain_facts`, or for `seeing_facts` with cameras."""
    rng = np.random.default_rng(seed)
    columns = {name: episode_columns(rng, length)[name] for name in (STATE, ACTION)}
    if cameras:
        columns |= {n: rng.integers(0, 256, (length, *s), np.uint8) for n, s in CAMERAS.items()}
    return Episode(
        columns=columns,
        control_mode=np.broadcast_to(np.asarray(mode, np.int8), (length,)).copy(),
        labelled=np.broadcast_to(np.asarray(labelled, bool), (length,)).copy(),
        policy_version=np.full(length, version),
        **{"task": "reach", "success": success, "source": "worker", **about},
    )


def whole_dataset_episodes(lengths: tuple[int, ...] = (7, 5, 12)) -> list[dict[str, Any]]:
    """Return the columns of the episodes that `demonstrations` writes, as a robot would send them."""
    names = [STATE, "observation.touch", ACTION, *BESIDE]
    return [
        {**{name: columns[name] for name in names}, "task": f"task {number % 2}"}
        for number, columns in enumerate(make_episodes(lengths))
    ]
