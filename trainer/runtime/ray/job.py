"""What runs on a Ray cluster, and how that may end."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from trainer.utils.errors import UsageError


class RayError(UsageError):
    """Ray is not there, or does not give what was asked of it; the text says what to do."""


class Interrupted(Exception):
    """A signal that came before the ranks began.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} before anything was trained")
        self.number = number


class Beside(Protocol):
    """What runs on the cluster beside the ranks."""

    @property
    def failure(self) -> Exception | None:
        """Why the ranks had better stop, or None as long as all is well."""
        ...


@dataclass(frozen=True)
class RayJob:
    """What runs on the cluster.

    Attributes:
        work: a function of an importable module; every rank calls it with `argument`. It returns plain
            values, of which those of rank 0 are the result.
        argument: plain values.
        ask_to_stop: called in a rank's process with the number of a signal that came where the job began.
        num_workers: number of ranks.
        address: `auto`, `host:port` or `ray://host:port` of a cluster; None starts one on this machine.
        max_failures: how often the ranks are started again after one was lost.
        cpus_per_worker: CPU cores, and threads, of a rank; None shares this machine's among its ranks, and
            asks for one elsewhere.
        use_gpu: a GPU for each rank; None where the cluster has that many.
        environment: names of further environment variables that the ranks need.
        resources: Ray resources beside CPUs and GPUs that the node of each rank must have.
        namespace: of the named actors of the job; None for one of its own.
        beside: what runs on the cluster beside the ranks, from before they begin until after they end.
    """

    work: Callable[[Any], Any]
    argument: Any
    ask_to_stop: Callable[[int], None]
    num_workers: int = 1
    address: str | None = None
    max_failures: int = 3
    cpus_per_worker: int | None = None
    use_gpu: bool | None = None
    environment: list[str] = field(default_factory=list)
    resources: dict[str, float] = field(default_factory=dict)
    namespace: str | None = None
    beside: Callable[[], contextlib.AbstractContextManager[Beside]] | None = None
