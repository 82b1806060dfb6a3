"""What an expert provides, scripted or human, who labels what a policy visits or takes over from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Expert(Protocol):
    """Someone who knows what to do, for one robot.

    The constructor takes the `params` of `online.expert`. A worker makes one expert per environment and calls
    `reset` at the beginning of every episode.
    """

    def reset(self, robot: Any) -> None:
        """Begin an episode.

        Args:
            robot: what is to be moved: the `Simulator`, or whatever a robot of one's own hands over.
        """
        ...

    def act(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the action `(A,)` that is right now, in the units of the dataset; a label is counted."""
        ...

    def takes_over(self, observation: Mapping[str, np.ndarray], action: np.ndarray) -> bool:
        """Return whether the expert moves the robot at this step, in place of the policy.

        Asked at every step, also while the expert moves it: False hands back.

        Args:
            observation: raw, feature → value.
            action: what the policy would do, `(A,)`.
        """
        ...
