"""Small datasets and the one recorded by somebody else, for the tests of this folder and its neighbours."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer.data.lerobot import LeRobotWriter

FEATURES: dict[str, dict[str, Any]] = {
    "observation.state": {"dtype": "float32", "shape": [3], "names": ["x", "y", "z"]},
    "observation.environment_state": {"dtype": "float32", "shape": [2], "names": None},
    "observation.gripper": {"dtype": "float64", "shape": [1], "names": None},
    "observation.touch": {"dtype": "float32", "shape": [3, 2], "names": None},
    "action": {"dtype": "float32", "shape": [2], "names": ["dx", "dy"]},
    "next.reward": {"dtype": "float32", "shape": [1], "names": None},
    "next.done": {"dtype": "bool", "shape": [1], "names": None},
    "phase": {"dtype": "int64", "shape": [1], "names": None},
}


def episode_columns(rng: np.random.Generator, length: int) -> dict[str, np.ndarray]:
    columns: dict[str, np.ndarray] = {}
    for name, feature in FEATURES.items():
        shape = (length, *feature["shape"])
        if feature["dtype"] == "bool":
            columns[name] = rng.random(shape) < 0.5
        elif feature["dtype"] == "int64":
            columns[name] = rng.integers(-5, 5, shape)
        else:
            columns[name] = rng.normal(size=shape).astype(feature["dtype"])
    return columns


def make_episodes(lengths: Sequence[int] = (7, 3, 12, 5, 9), seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [episode_columns(rng, length) for length in lengths]


def write_dataset(
    root: Path,
    episodes: Sequence[Mapping[str, np.ndarray]],
    *,
    fps: int = 10,
    features: Mapping[str, Any] = FEATURES,
    **options: Any,
) -> Path:
    with LeRobotWriter(root, fps=fps, features=features, robot_type="arm", **options) as writer:
        for number, columns in enumerate(episodes):
            writer.add_episode(columns, f"task {number % 2}")
    return root


def recorded_pusht() -> Path:
    """Return the folder of the Push-T demonstrations, which lerobot wrote; skip the test where it is not."""
    folder = os.environ.get("TRAINER_TEST_DATA")
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "pusht"
    root = Path(folder) / "pusht" if folder and (Path(folder) / "pusht").is_dir() else Path(folder or beside)
    if not (root / "meta" / "info.json").is_file():
        pytest.skip("the Push-T demonstrations are not here; TRAINER_TEST_DATA may name their folder")
    return root
