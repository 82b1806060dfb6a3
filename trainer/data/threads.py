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


def share_threads(workers: int) -> None:
    """Say in one of `workers` threads that work at once that they share what `number_of_threads` allows."""
    _SHARED.workers = workers


def number_of_threads() -> int:
    """Return how many threads the caller may use: as many as torch has, divided among those that share them.

    In a worker process that is one, for there the work is shared out by batches already.
    """
    if get_worker_info() is not None:
        return 1
    return -(-torch.get_num_threads() // getattr(_SHARED, "workers", 1))


def side_by_side(work: Callable[[T], None], items: Sequence[T]) -> None:
    """Call `work` with every item in `number_of_threads()` threads; raise what the first that failed did."""
    threads = min(number_of_threads(), len(items))
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
