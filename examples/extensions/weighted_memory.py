"""A dataset in memory whose samples have weights: `TrainingDataset` and its factory in one file.

The data is an `.npz` file of N frames, episode after episode: `state` (N, D), `action` (N, A), `episode` (N,)
and `weight` (N,), such as a score of how well a demonstration went. Put
`examples.extensions.weighted_memory` under `plugins` and this into the experiment::

    data:
      datamodule:
        type: weighted_memory
        params: { path: demonstrations.npz, action_horizon: 16, obs_history: 2 }
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.config.errors import ParameterError
from trainer.config.paths import find_input
from trainer.data.statistics import column_statistics
from trainer.data.windows import Window, WindowGather, action_offsets, history_offsets
from trainer.registry import DATASET_BUILDER_REGISTRY
from trainer.templates import TrainingDataset

STATE, ACTION = "observation.state", "action"


class WeightedMemoryDataset(TrainingDataset):
    """One sample for every frame; an epoch draws N of them with replacement, in proportion to their weights.

    A sample holds `observation.state` (T, D) and `action` (H, A), and for both `<key>_is_pad`, bool, where
    the window leaves the episode.

    Args:
        state: float32 `(N, D)`.
        action: float32 `(N, A)`.
        episode: number of each frame's episode, int64 `(N,)`, ascending.
        weight: how often a frame is drawn in relation to others, `(N,)`, not negative.
        windows: the frames of state and action in a sample.
    """

    concurrent_reads = True  # a sample depends on its index alone

    def __init__(
        self,
        state: np.ndarray,
        action: np.ndarray,
        episode: np.ndarray,
        weight: np.ndarray,
        windows: Sequence[Window],
    ) -> None:
        self.arrays = {STATE: state, ACTION: action}
        self.windows = windows
        self._episode = episode
        self._share = np.cumsum(weight, dtype=np.float64) / np.sum(weight, dtype=np.float64)
        _, starts, lengths = np.unique(episode, return_index=True, return_counts=True)
        self._gather = WindowGather(self.arrays, windows, starts, lengths)

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self._episode)

    def __getitems__(self, indices: Sequence[int] | np.ndarray) -> dict[str, Any]:
        """Return a batch: one copy for each feature."""
        gathered = self._gather(np.asarray(indices, np.int64))
        return {key: torch.from_numpy(values) for key, values in gathered.items()}

    def epoch_order(self, seed: int, epoch: int) -> np.ndarray:
        """Draw an epoch: a pure function of seed and epoch, so that ranks agree and a run can be resumed."""
        drawn = np.random.default_rng([seed, epoch]).random(len(self))
        return np.searchsorted(self._share, drawn, side="right")

    @property
    def episode_index(self) -> np.ndarray:
        """Number of every frame's episode, so that `data.validation` can keep some."""
        return self._episode

    def batch_metrics(self, batch: Any) -> dict[str, Tensor]:
        """Return the share of action steps that lie beyond the end of their episode."""
        return {"padded actions": batch[f"{ACTION}_is_pad"].float().mean()}

    def facts(self) -> dict[str, Any]:
        """Return what the run folder keeps; windows and features tell a robot what to measure."""
        return {
            "windows": {window.key: list(window.offsets) for window in self.windows},
            "features": {key: {"shape": list(column.shape[1:])} for key, column in self.arrays.items()},
            "episodes": len(np.unique(self._episode)),
            "frames": len(self),
        }


@dataclass(frozen=True)
class WeightedMemoryParams:
    """The parameters under `data.datamodule.params`; the engine checks their names and types."""

    path: str
    action_horizon: int
    obs_history: int = 1
    task_name: str | None = None


@DATASET_BUILDER_REGISTRY.register("weighted_memory")
class WeightedMemoryFactory:
    """Reads the file."""

    parameters = WeightedMemoryParams

    def build(self, opt_params: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
        """Return the dataset and its statistics."""
        chosen = WeightedMemoryParams(**params)
        path = find_input(chosen.path, opt_params["search_paths"])
        if path is None:
            raise ParameterError("path", f"there is no file {chosen.path}")
        with np.load(path) as file:
            missing = {"state", "action", "episode", "weight"} - set(file)
            if missing:
                raise ParameterError("path", f"{path} has no array '{min(missing)}'")
            state, action = file["state"].astype(np.float32), file["action"].astype(np.float32)
            episode, weight = file["episode"].astype(np.int64), file["weight"]
        if (np.diff(episode) < 0).any():
            raise ParameterError("path", f"{path}: the frames of an episode do not lie together")
        if not (weight >= 0).all() or not 0 < weight.sum() < np.inf:
            raise ParameterError("path", f"{path}: a weight is negative or no number, or all are 0")
        windows = [
            Window(STATE, history_offsets(chosen.obs_history, "oldest_first", 1)),
            Window(ACTION, action_offsets(chosen.action_horizon, 0, 1)),
        ]
        dataset = WeightedMemoryDataset(state, action, episode, weight, windows)
        stats = {key: column_statistics(column) for key, column in dataset.arrays.items()}
        return {"dataset": dataset, "norm_stats": stats}
