"""A data module to copy: demonstrations of a point that moves to a goal, made when they are asked for.

Use it by adding `examples.extensions.reaching_data` to `plugins` and setting `data.datamodule.type` to
`reaching_dataset_factory`. `examples/configs/minimal.yaml` trains on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from trainer.data.statistics import column_statistics
from trainer.registry import DATASET_BUILDER_REGISTRY

SPEED = 0.1


class ReachingDataset(Dataset[dict[str, torch.Tensor]]):
    """One sample for every frame of every episode.

    A sample holds `observation.state` `(1, 4)`, the point and its goal in the plane, and `action` `(S, 2)`,
    the next S movements, each a tenth of the way that is left.

    Args:
        episodes: number of episodes.
        frames: frames of each.
        action_horizon: S.
        noise: standard deviation of what is added to every movement.
        seed: chooses starts, goals and noise.
    """

    # A sample depends on its index alone, so batches may be made beside the step.
    concurrent_reads = True

    def __init__(self, episodes: int, frames: int, action_horizon: int, noise: float, seed: int) -> None:
        rng = np.random.default_rng(seed)
        point, goal = rng.uniform(-1, 1, size=(2, episodes, 2))
        states, actions = [], []
        for _ in range(frames + action_horizon - 1):
            move = SPEED * (goal - point) + noise * rng.normal(size=point.shape)
            states.append(np.concatenate([point, goal], axis=-1))
            actions.append(move)
            point = point + move
        self.frames, self.horizon = frames, action_horizon
        self.states = np.stack(states, axis=1).astype(np.float32)  # (episodes, time, 4)
        self.actions = np.stack(actions, axis=1).astype(np.float32)  # (episodes, time, 2)

    def __len__(self) -> int:
        return len(self.states) * self.frames

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        episode, frame = divmod(int(index), self.frames)
        return {
            "observation.state": torch.from_numpy(self.states[episode, frame : frame + 1]),
            "action": torch.from_numpy(self.actions[episode, frame : frame + self.horizon]),
        }

    def facts(self) -> dict[str, Any]:
        """Return what a robot must know: which frames a policy sees, and which ones it predicts."""
        return {"windows": {"observation.state": [0], "action": list(range(self.horizon))}}


@dataclass(frozen=True)
class ReachingParams:
    """The `params` of the YAML, checked by their names and types.

    Attributes:
        episodes: number of episodes.
        frames: frames of each.
        action_horizon: actions in a chunk.
        noise: standard deviation of what is added to every movement.
        seed: chooses starts, goals and noise.
        task_name: project name for the tracker.
    """

    episodes: int = 64
    frames: int = 32
    action_horizon: int = 4
    noise: float = 0.01
    seed: int = 0
    task_name: str = "reaching"


@DATASET_BUILDER_REGISTRY.register("reaching_dataset_factory")
class ReachingDatasetFactory:
    """Builds a `ReachingDataset`."""

    parameters = ReachingParams

    def build(self, opt_params: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
        """Return the dataset and the statistics by which states and actions are normalized."""
        chosen = ReachingParams(**params)
        dataset = ReachingDataset(
            chosen.episodes, chosen.frames, chosen.action_horizon, chosen.noise, chosen.seed
        )
        stats = {
            "observation.state": column_statistics(dataset.states.reshape(-1, 4)),
            "action": column_statistics(dataset.actions.reshape(-1, 2)),
        }
        return {"dataset": dataset, "norm_stats": stats}
