"""Small datasets and the one recorded by somebody else, for the tests of this folder and its neighbours."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
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


FILM_FEATURES: dict[str, dict[str, Any]] = {
    "observation.state": {"dtype": "float32", "shape": [3], "names": None},
    "action": {"dtype": "float32", "shape": [2], "names": None},
    "observation.images.top": {"dtype": "video", "shape": [32, 48, 3], "names": None},
    "observation.images.wrist": {"dtype": "video", "shape": [24, 16, 3], "names": None},
}


def film_episodes(lengths: Sequence[int]) -> list[dict[str, np.ndarray]]:
    """Return episodes with two cameras, no two frames of which are alike."""
    rng = np.random.default_rng(0)
    episodes = []
    for number, length in enumerate(lengths):
        columns = {
            name: rng.normal(size=(length, *entry["shape"])).astype(np.float32)
            for name, entry in FILM_FEATURES.items()
            if entry["dtype"] == "float32"
        }
        for camera, (name, entry) in enumerate(list(FILM_FEATURES.items())[2:]):
            columns[name] = moving_picture(length, *entry["shape"][:2], seed=10 * number + camera)
        episodes.append(columns)
    return episodes


def moving_picture(frames: int, height: int, width: int, seed: int) -> np.ndarray:
    """Return coloured waves that no two frames share: uint8 `(frames, H, W, 3)`."""
    rng = np.random.default_rng(seed)
    t, y, x = np.ogrid[:frames, :height, :width]
    speed, slope, phase = rng.uniform(0.1, 0.5, 3), rng.uniform(-0.15, 0.15, (3, 2)), rng.uniform(0, 6, 3)
    waves = [np.sin(slope[c, 0] * y + slope[c, 1] * x + speed[c] * t + phase[c]) for c in range(3)]
    return (127.5 + 127 * np.stack(waves, axis=-1)).astype(np.uint8)


def edit_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
