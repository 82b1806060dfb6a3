"""Work on several cores within one process, where Python's lock is not in the way."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch.utils.data import get_worker_info

T = TypeVar("T")

_POOLS: dict[int, ThreadPoolExecutor] = {}
os.register_at_fork(after_in_child=_POOLS.clear)  # their threads do not exist in a child


def lanes() -> int:
    """Return how many threads may work at once: as many as torch has, one in a worker process."""
    return 1 if get_worker_info() is not None else torch.get_num_threads()


def side_by_side(work: Callable[[T], None], items: Sequence[T]) -> None:
    """Call `work` with every item, in `lanes()` threads; raise what the first that failed raised."""
    threads = min(lanes(), len(items))
    if threads <= 1:
        for item in items:
            work(item)
        return
    if threads not in _POOLS:
        _POOLS[threads] = ThreadPoolExecutor(threads, "decoding")
    # All have ended before a failure is raised: they may share what they write to.
    results = [_POOLS[threads].submit(work, item) for item in items]
    problems = [result.exception() for result in results]
    for problem in problems:
        if problem is not None:
            raise problem
