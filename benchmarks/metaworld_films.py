"""A dataset of Meta-World's experts, seen by two cameras: what simulators really show."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.lerobot import LeRobotWriter
from trainer.evaluation.demonstrations import demonstrate_once
from trainer.evaluation.simulators.metaworld import FEATURES, MetaworldSimulator
from trainer.evaluation.simulators.scene import SceneRenderer, View

TASKS = ("pick-place-v3", "door-open-v3", "drawer-close-v3")
VIEWS = {
    "observation.images.left": View((0.0, 0.65, 0.12), 1.35, 150.0, -30.0),
    "observation.images.right": View((0.0, 0.65, 0.12), 1.2, 40.0, -35.0),
}


class Filmed(MetaworldSimulator):
    """Films what the expert sees."""

    def __init__(self, task: str, size: int) -> None:
        super().__init__(task)
        self.films: dict[str, list[np.ndarray]] = {name: [] for name in VIEWS}
        self._renderer = SceneRenderer(copy.copy(self._env.model), size)

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        """Begin an episode and its films."""
        for film in self.films.values():
            film.clear()
        return super().reset(seed)

    def expert_action(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        """Return the expert's action, and film what it acts upon."""
        for name, view in VIEWS.items():
            self.films[name].append(self._renderer.draw(self._env.model, self._env.data, view))
        return super().expert_action(observation)


def write_metaworld(root: Path, size: int, episodes: int = 8) -> Path:
    """Write so many episodes of each task."""
    films = {name: {"dtype": "video", "shape": [size, size, 3]} for name in VIEWS}
    numbers: dict[str, Any] = {
        name: {**entry, "shape": list(entry["shape"])} for name, entry in FEATURES.items()
    }
    with LeRobotWriter(root, fps=80, features={**numbers, **films}) as writer:
        for task in TASKS:
            simulator = Filmed(task, size)
            for seed in range(episodes):
                columns = demonstrate_once(simulator, seed)
                if columns is not None:
                    seen = {name: np.stack(film) for name, film in simulator.films.items()}
                    writer.add_episode({**columns, **seen}, task)
            simulator.close()
    return root
