"""The named actors through which the parts of an online run find each other."""

from __future__ import annotations

from typing import Any

from trainer.utils.errors import UsageError

NAMESPACE = "online"
"""Where the actors live, unless the job runs in a namespace of its own that has them."""

REPLAY, MANAGER = "replay_buffer", "policy_state_manager"

LASTING: dict[str, Any] = {"max_restarts": -1, "max_task_retries": -1, "num_cpus": 0}
"""Options of an actor that Ray starts again, as often as it is lost, and whose calls are made again."""

THREADS = {REPLAY: 8, MANAGER: 1}
"""Calls that an actor answers at a time; of those of a worker, 4: `run` goes on beside the others."""


def lasting_actor(name: str, cls: type, resources: dict[str, float] | None = None) -> Any:
    """Return the actor class of a named actor; `.remote(…)` takes the arguments of the plain class.

    Args:
        name: by which others find it.
        cls: the plain class.
        resources: Ray resources that its node must have.
    """
    import ray

    options: dict[str, Any] = {
        "name": name,
        "max_concurrency": THREADS.get(name, 4),
        "resources": resources or {},
    }
    return ray.remote(**options, **LASTING)(cls)


def find_actor(name: str, namespace: str | None = None) -> Any:
    """Return the handle of a named actor.

    Args:
        name: `replay_buffer` or `policy_state_manager`.
        namespace: where it is; the job's own, or else `NAMESPACE`, if not given.

    Raises:
        UsageError: there is none, or no cluster that this process belongs to.
    """
    import ray

    if not ray.is_initialized():  # else Ray would start a cluster here, which has no actors
        raise UsageError(
            f"there is no actor '{name}', because this process belongs to no Ray cluster; start the run with "
            "`trainer online`, or train_func as a worker of Ray Train"
        )
    own = ray.get_runtime_context().namespace
    places = list(dict.fromkeys([own, NAMESPACE] if namespace is None else [namespace]))
    for place in places:
        try:
            return ray.get_actor(name, namespace=place)
        except ValueError:
            continue
    raise UsageError(
        f"this Ray cluster has no actor '{name}' in the namespace {' or '.join(places)}; start the run with "
        "`trainer online`, or the actor before it"
    )
