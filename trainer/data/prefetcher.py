"""Results that are made beside their consumer, in threads."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from trainer.data.threads import share_threads

T = TypeVar("T")


class Prefetcher(Iterator[T], Generic[T]):
    """Yields the results of calls in their order, made ahead of time in threads of their own.

    What a call raises comes at its place, after the results before it, and is the last. `close` ends the
    threads; it waits for the calls that are being made, and for nothing else.

    Args:
        calls: what makes each result; it is asked for the next one in the consumer's thread.
        depth: so many results are ready or being made at most.
        threads: so many are made at once.
    """

    def __init__(self, calls: Iterable[Callable[[], T]], depth: int, threads: int = 1) -> None:
        assert depth >= threads >= 1
        self._calls = iter(calls)
        self._pool = ThreadPoolExecutor(threads, "prefetch", share_threads, (threads,))
        self._made: deque[Future[T]] = deque()
        self._begin(depth)

    def __next__(self) -> T:
        """Return the next result; wait for it if it is not ready."""
        if not self._made:
            self.close()
            raise StopIteration
        future = self._made.popleft()
        self._begin(1)
        try:
            return future.result()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the threads; results that are ready are dropped."""
        self._made.clear()
        self._calls = iter(())
        self._pool.shutdown(cancel_futures=True)

    def _begin(self, count: int) -> None:
        self._made.extend(self._pool.submit(call) for call in itertools.islice(self._calls, count))
