"""What a policy is in training, and what it is on a robot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from trainer.utils.random import Random


@runtime_checkable
class Policy(Protocol):
    """Pure maths over named components: no optimizer, no history, no units.

    The constructor takes the `nn.ModuleDict` of components, the loss module or None, and the policy's
    own parameters. All values are normalized. B batch, T history, H action horizon, A action size.
    """

    def loss(self, batch: dict[str, Tensor], random: Random) -> dict[str, Tensor]:
        """Return scalars; `total` is the one that is trained, the others are logged."""
        ...

    def predict_action(self, observation: dict[str, Tensor], random: Random) -> Tensor:
        """Return an action chunk `(B, H, A)` for observations `(B, T, …)`."""
        ...


@runtime_checkable
class RobotPolicy(Protocol):
    """A policy as a robot or a simulator uses it: raw observations in, raw actions out.

    History, normalization and the execution of action chunks happen inside.
    """

    def reset(self, seeds: int | Sequence[int] = 0) -> None:
        """Begin an episode, or N in lockstep.

        Args:
            seeds: one seed for one robot (observations without a batch dimension), or N of them for N
                robots; a robot's actions depend on its own seed only.
        """
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows of the batch only; the others have ended."""
        ...

    def act(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        """Return the next action, float32 `(A,)` or `(N, A)`, in the units of the dataset."""
        ...
