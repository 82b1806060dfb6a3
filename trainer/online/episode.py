"""An episode that a robot has played."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from trainer.utils.errors import UsageError

AUTO, EXPERT, HUMAN = 0, 1, 2
"""Who moved the robot: the policy, a scripted expert, a person."""


class EpisodeError(UsageError):
    """An episode cannot be trained on; one sentence says why, and it is stored nowhere."""


@dataclass(frozen=True)
class Episode:
    """T control steps of one robot, from a start to an end."""

    columns: Mapping[str, np.ndarray]
    control_mode: np.ndarray
    labelled: np.ndarray
    policy_version: np.ndarray
    task: str
    success: bool
    source: str
    start_seed: int | None = None

    def __len__(self) -> int:
        """Return T."""
        return len(self.control_mode)

    @property
    def labels(self) -> int:
        """Number of actions that an expert or a person gave."""
        return int(self.labelled.sum())
