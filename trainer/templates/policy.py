"""What is trained, and what it is on a robot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from trainer.templates.context import Context


class Objective(nn.Module):
    """Pure maths over named components: no optimizer, no history, no units.

    The constructor of a plugin takes the `nn.ModuleDict` of components, `loss`, the module of `train.loss` or
    None, if it names it, and its own parameters. The framework owns it like any module: device, train and
    eval mode, and its own parameters and buffers (those that no component has) are in the checkpoint. All
    values are normalized.
    """

    def loss(self, batch: dict[str, Tensor], context: Context) -> dict[str, Tensor]:
        """Return scalars; `total` is the one that is trained, the others are logged.

        Args:
            batch: the batch of this rank, on the device.
            context: random numbers, and when and for what the loss is asked.
        """
        raise NotImplementedError


class Policy(Objective):
    """An objective that can act. B batch, T history, H action horizon, A action size."""

    def predict_action(self, observation: dict[str, Tensor], context: Context) -> Tensor:
        """Return an action chunk `(B, H, A)` for observations `(B, T, …)`."""
        raise NotImplementedError


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

    def act(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the next action, float32 `(A,)` or `(N, A)`, in the units of the dataset.

        Args:
            observation: feature → value. In a simulator a picture is drawn when it is read here, so a policy
                reads it only when it looks, and copies what it wants to keep.
        """
        ...
