"""The actors that a run has on the cluster, by name."""

from __future__ import annotations

from typing import Any

from trainer.utils.errors import UsageError

NAMESPACE = "online"
REPLAY, MANAGER = "replay_buffer", "policy_state_manager"


def find_actor(name: str, namespace: str | None = None) -> Any:
    """Return the actor of that name.

    Args:
        name: `replay_buffer` or `policy_state_manager`.
        namespace: where it is; that of this job, or else `NAMESPACE`, if not given.

    Raises:
        UsageError: there is none.
    """
    import ray

    own = ray.get_runtime_context().namespace
    places = [own, NAMESPACE] if namespace is None else [namespace]
    for place in dict.fromkeys(places):
        try:
            return ray.get_actor(name, namespace=place)
        except ValueError:
            continue
    raise UsageError(
        f"this Ray cluster has no actor '{name}' in the namespace {' or '.join(dict.fromkeys(places))}; "
        "start the run with `trainer online`, or the actor before it"
    )
