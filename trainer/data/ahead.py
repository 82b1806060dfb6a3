"""An iterator that runs beside its consumer, in a thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

_LOOK_AROUND_S = 1.0


class Ahead(Iterator[T], Generic[T]):
    """Yields the items of an iterable in their order, made ahead of time in a thread of their own.

    What the iterable raises comes at its place, after the items before it. `close` ends the thread; it waits
    for the item that is being made, and for nothing else. A thread that nobody closed ends with the program.

    Args:
        items: is used in the thread alone.
        depth: so many items are ready at most, beside the one that is being made.
    """

    def __init__(self, items: Iterable[T], depth: int) -> None:
        assert depth >= 1
        self._items = items
        self._depth = depth
        self._ready: deque[T] = deque()
        self._changed = threading.Condition()
        self._closed = self._ended = False
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._make, name="batches ahead")
        self._thread.start()

    def __next__(self) -> T:
        """Return the next item; wait for it if it is not ready."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._ended)
            if self._ready:
                self._changed.notify_all()
                return self._ready.popleft()
            problem, self._problem = self._problem, None
        if problem is not None:
            raise problem
        raise StopIteration

    def close(self) -> None:
        """End the thread; items that are ready are dropped."""
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._changed.notify_all()
        self._thread.join()

    def _make(self) -> None:
        try:
            for item in self._items:
                if not self._deliver(item):
                    break
        except BaseException as problem:  # whatever it is, it is the consumer's
            self._problem = problem
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _deliver(self, item: T) -> bool:
        """Wait for room and leave an item there; tell whether more are wanted."""
        main = threading.main_thread()
        with self._changed:
            while len(self._ready) >= self._depth and not self._closed:
                # The end of the program waits for this thread, and nobody may be left to close it.
                if not main.is_alive():
                    return False
                self._changed.wait(_LOOK_AROUND_S)
            if self._closed:
                return False
            self._ready.append(item)
            self._changed.notify_all()
        return True
