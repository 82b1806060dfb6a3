"""Calling an actor as if it were an object of this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trainer.checkpoint.folder import CheckpointError
from trainer.utils.errors import UsageError


class Gone(UsageError):
    """An actor, or what a reference led to, is not there any more."""


class Remote:
    """An actor whose methods return their results; what they raise is raised here as it was there.

    Args:
        actor: the handle.
        name: what a user knows it by.
    """

    def __init__(self, actor: Any, name: str) -> None:
        self._actor, self._name = actor, name

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            import ray

            try:
                return ray.get(getattr(self._actor, method).remote(*arguments, **named))
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, UsageError | CheckpointError):
                    raise error.cause from None
                raise
            except ray.exceptions.RayActorError as error:
                raise Gone(f"the actor {self._name} is gone, so nothing can be collected") from error

        return call


def resolved(value: Any) -> Any:
    """Return what a list of one reference leads to; any other value as it is.

    Raises:
        Gone: whoever had it is gone.
    """
    if not isinstance(value, list):
        return value
    import ray

    try:
        return ray.get(value[0])
    except (ray.exceptions.ObjectLostError, ray.exceptions.OwnerDiedError) as error:
        raise Gone("a version of the weights was lost with the process that had published it") from error
