"""Calling an actor as if it were an object of this process."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from trainer.engine.exit_messages import user_message
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
            ref = getattr(self._actor, method).remote(*arguments, **named)
            return result_of(ref, f"the actor {self._name}")

        return call


def result_of(call: Any, whose: str, timeout: float | None = None) -> Any:
    """Return what a call of an actor gives; what is meant for the user is raised here as it was there.

    Args:
        call: the reference that the call returned.
        whose: the actor, as the user knows it.
        timeout: seconds to wait at most.

    Raises:
        Gone: the actor could not begin, or is lost for good.
        UsageError, CheckpointError, …: what the actor refused, one sentence without the traceback of there.
        RayError: what only a traceback explains, or the timeout is over.
    """
    import ray

    try:
        return ray.get(call, timeout=timeout)
    except ray.exceptions.RayTaskError as error:
        if user_message(error.cause) is None:
            raise
        raise error.cause from None
    except ray.exceptions.ActorDiedError as error:
        if not error.actor_init_failed:
            raise Gone(f"{whose} is gone, so nothing can be collected") from error
        raise Gone(f"{whose} could not begin: {_reason(str(error))}") from None


def _reason(text: str) -> str:
    """Return what an error says whose traceback this is: its last line, without the name of its class."""
    last = text.strip().splitlines()[-1]
    return re.sub(r"^[\w.]+(?:\[[^\]]*\])?: ", "", last)


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
