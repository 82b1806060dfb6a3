"""Waiting for what other processes of the cluster do, without ever waiting in silence or past a signal."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from trainer.engine.stop import WaitEnded, stop_asked
from trainer.online.remote import result_of
from trainer.utils.log import log

_POLL_SECONDS = 0.2
_SAID_AFTER_SECONDS = 5.0


def answer(ref: Any, whose: str) -> Any:
    """Return what a call of an actor gives; while the actor is being started again, that is said.

    Args:
        ref: of the call.
        whose: what is waited for, as the user knows it.

    Raises:
        WaitEnded: the run is asked to stop.
        UsageError, …: as `result_of`.
    """
    import ray

    def pending() -> str | None:
        ready, _ = ray.wait([ref], timeout=_POLL_SECONDS)
        return None if ready else f"{whose} does not answer"

    wait_while(pending, poll_seconds=0.0)
    return result_of(ref, whose)


def wait_while(reason: Callable[[], str | None], poll_seconds: float = _POLL_SECONDS) -> float:
    """Wait as long as there is a reason to, and return the seconds that took; a long wait is logged.

    Args:
        reason: returns why to wait, or None.
        poll_seconds: between two questions.

    Raises:
        WaitEnded: the run is asked to stop.
    """
    began = time.perf_counter()
    said = False
    while (why := reason()) is not None:
        waited = time.perf_counter() - began
        if stop_asked():
            raise WaitEnded(why)
        if not said and waited > _SAID_AFTER_SECONDS:
            log.info(f"The learner waits: {why}.")
            said = True
        time.sleep(poll_seconds)
    waited = time.perf_counter() - began
    if said:
        log.info(f"The learner goes on after {waited:.0f} s.")
    return waited
