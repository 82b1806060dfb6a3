"""Work on several cores within one process, where Python's lock is not in the way."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch.utils.data import get_worker_info

T = TypeVar("T")

_POOLS: dict[int, ThreadPoolExecutor] = {}
os.register_at_fork(after_in_child=_POOLS.clear)  # their threads do not exist in a child

_SHARED = threading.local()


def share_lanes(threads: int) -> None:
    """Say in a thread that it is one of so many that work at once and share the lanes."""
    _SHARED.threads = threads


def lanes() -> int:
    """Return how many threads may work at once for this one: its share of as many as torch has.

    In a worker process that is one. Work that is shared out at a higher level already, such as by batches,
    so stays in one thread, and nothing is handed over.
    """
    if get_worker_info() is not None:
        return 1
    return -(-torch.get_num_threads() // getattr(_SHARED, "threads", 1))


def side_by_side(work: Callable[[T], None], items: Sequence[T]) -> None:
    """Call `work` with every item, in `lanes()` threads; raise what the first that failed raised."""
    threads = min(lanes(), len(items))
    if threads <= 1:
        for item in items:
            work(item)
        return
    every = torch.get_num_threads()
    if every not in _POOLS:
        _POOLS[every] = ThreadPoolExecutor(every, "decoding")
    # All have ended before a failure is raised: they may share what they write to.
    results = [_POOLS[every].submit(work, item) for item in items]
    problems = [result.exception() for result in results]
    for problem in problems:
        if problem is not None:
            raise problem
