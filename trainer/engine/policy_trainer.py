"""The usual trainer: one policy, one loss, one update a step."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from trainer.engine.update import Update
from trainer.registry import TRAINER_REGISTRY
from trainer.templates import Context, Objective
from trainer.templates.reduced import detached

C = TypeVar("C", bound=type[Objective])


class PolicyTrainer:
    """Trains the one `total` of a policy or an objective.

    A trainer with more to do overrides `train_step` and calls `update` once for each phase; parameters that
    its constructor takes beside these two are its own, and all others the policy's.

    Args:
        policy: built from the components, the loss and `train.trainer.params`.
        update: what turns losses into new weights.
    """

    policy_class: ClassVar[type[Objective]]
    parameters: ClassVar[Any]

    def __init_subclass__(cls) -> None:
        """Let the signatures say who takes which of `train.trainer.params`."""
        own = set(inspect.signature(cls).parameters) - {"policy", "update"}
        if hasattr(cls, "policy_class"):
            cls.parameters = (cls.policy_class, cls) if own else cls.policy_class

    def __init__(self, policy: Any, update: Update) -> None:
        self.policy = policy
        self.update = update

    def train_step(self, data: dict[str, Any], context: Context) -> dict[str, Any]:
        """Learn from one micro-batch; the last one of an update makes it.

        Args:
            data: the batch of this rank, normalized, float32, on the device.
            context: when this is, and the random numbers.

        Returns:
            The policy's losses and what the update tells of itself; tensors stay on the device.
        """
        self.update.begin(context)
        losses = self.policy.loss(data, context)
        self.update.backward(losses["total"])
        return {**{name: detached(value) for name, value in losses.items()}, **self.update.finish()}


def register_policy(key: str, trainer: type[PolicyTrainer] = PolicyTrainer) -> Callable[[C], C]:
    """Return a class decorator that registers a policy, or an objective, and the trainer that trains it.

    Args:
        key: what `train.trainer.type` calls it.
        trainer: how it is trained.
    """

    def decorate(policy: C) -> C:
        facts = {"policy_class": policy, "__module__": policy.__module__, "__doc__": trainer.__doc__}
        TRAINER_REGISTRY.add(key, type(f"{policy.__name__}Trainer", (trainer,), facts))
        return policy

    return decorate
