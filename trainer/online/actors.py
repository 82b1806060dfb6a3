"""The named actors through which the parts of an online run find each other."""

from __future__ import annotations

from typing import Any

from trainer.online.replay import ReplayBuffer
from trainer.utils.errors import UsageError

NAMESPACE = "online"
"""Where the actors live, unless the job runs in a namespace of its own that has them."""

REPLAY, MANAGER = "replay_buffer", "policy_state_manager"

LASTING = {"max_restarts": -1, "max_task_retries": -1, "num_cpus": 0}
"""Options of an actor that Ray starts again, as often as it is lost, and whose calls are made again."""

_THREADS = 8
"""Calls that the replay buffer answers at a time: one that waits for the disk keeps no other waiting."""


def replay_buffer_actor() -> Any:
    """Return the actor class of the replay buffer; `.remote(…)` takes the arguments of `ReplayBuffer`."""
    import ray

    options: dict[str, Any] = {"name": REPLAY, "max_concurrency": _THREADS, **LASTING}
    return ray.remote(**options)(ReplayBuffer)


def __getattr__(name: str) -> Any:
    """Give `ReplayBufferActor`, for which Ray is imported when it is asked for."""
    if name == "ReplayBufferActor":
        return replay_buffer_actor()
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def find_actor(name: str) -> Any:
    """Return the handle of a named actor, in the job's own namespace or in `NAMESPACE`.

    Raises:
        UsageError: it is in neither.
    """
    import ray

    own = ray.get_runtime_context().namespace
    for namespace in dict.fromkeys((own, NAMESPACE)):
        try:
            return ray.get_actor(name, namespace=namespace)
        except ValueError:
            continue
    raise UsageError(
        f"there is no Ray actor '{name}' in the namespaces '{own}' and '{NAMESPACE}' of this cluster; start "
        "it first, as `trainer online` does"
    )
