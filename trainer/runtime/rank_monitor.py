"""Notices within a bounded time that a rank is gone, ends the others, and says which one it was and why.

torchrun and Ray end the other ranks when a process dies. But these then speak of the network, as their
collectives fail; why a rank failed reaches nobody else; and a rank that hangs is not noticed at all.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import torch.distributed as dist

from trainer.runtime.rank_loss import Loss, Place, RankLost
from trainer.utils.log import EVERY_RANK, log

# A thread of every rank gives signs of life so often; neither a long evaluation nor a long write looks like
# death. Only a process that is stopped, or whose machine is unreachable, is silent for SILENCE_SECONDS.
POLL_SECONDS = 0.5
SILENCE_SECONDS = 45.0
# What a rank that heard of a loss may still take to unwind; a thread stuck in a collective does not return.
GRACE_SECONDS = 10.0
# From the death of a rank to the end of the last of the others.
BOUND_SECONDS = SILENCE_SECONDS + GRACE_SECONDS
# An error of a collective is the echo of another rank's end, of which the news may be a moment behind.
ECHO_SECONDS = 5.0
HEARD_SECONDS = 3.0
_LEFT = b"left"
_ENDED = "its process ended without a word, as when it is killed"
_UNREACHABLE = "neither it nor who started it can be reached"


class RankMonitor:
    """Keeps the ranks informed of each other, through the store in which they found each other.

    A thread looks into the store twice a second. Rank 0 waits for signs of life of all others, these for
    those of rank 0. The end of a process of the same machine is seen at once, from the system. The first loss
    is written into the store; who reads it has a grace to unwind and is then ended hard.

    Attributes:
        loss: the rank that is gone, once that is known.

    Args:
        store: a connection that only this monitor uses.
        places: where the ranks run, by rank.
        rank: this one.
        silence: seconds without a sign of life after which a rank counts as lost.
        poll: seconds between looks into the store, and between signs of life.
        grace: seconds after which a rank that heard of a loss is ended.
        end: ends this process.
    """

    def __init__(
        self,
        store: dist.Store,
        places: list[Place],
        rank: int,
        *,
        silence: float = SILENCE_SECONDS,
        poll: float = POLL_SECONDS,
        grace: float = GRACE_SECONDS,
        end: Callable[[], None] = lambda: os._exit(1),
    ) -> None:
        self.loss: Loss | None = None
        self._store, self._places, self._rank = store, places, rank
        self._silence, self._poll, self._grace, self._end = silence, poll, grace, end
        self._watched = [p.rank for p in places[1:]] if rank == 0 else [0]
        self._lost, self._closed, self._noting = threading.Event(), threading.Event(), threading.Lock()
        self._said = False
        self._meetings = 0
        # Seconds that this process has run: while it is stopped, the silence of others means nothing.
        self._clock = 0.0
        self._answered = 0.0
        self._deadline = float("inf")
        self._processes = select.poll()
        self._rank_of: dict[int, int] = {}
        for place in places:
            if place.machine and place.machine == places[rank].machine and place.rank != rank:
                self._watch_process(place)
        self._threads = [threading.Thread(target=f, daemon=True) for f in (self._listen, self._keep_time)]
        for thread in self._threads:
            thread.start()

    @staticmethod
    def prepare(store: dist.Store, rank: int) -> None:
        """Lay out what others will read of this rank; all ranks do so before the first of them monitors."""
        store.set(f"rank/{rank}", "0")
        store.set(f"heard/{rank}", "")
        if rank == 0:
            store.set("loss", "")

    def meet(self) -> None:
        """Wait, as long as it takes, until all ranks are here.

        Raises:
            RankLost: one of them will not come.
        """
        self._meetings += 1
        key = f"meeting/{self._meetings}"
        self._store.add(key, 1)
        while self._store.add(key, 0) < len(self._places):
            if self._lost.wait(0.01):
                assert self.loss is not None
                raise RankLost(self.loss)

    def leave(self) -> None:
        """Take leave, so that nobody misses this rank. Rank 0, which others may need to do so, goes last."""
        with contextlib.suppress(RuntimeError):
            self._store.set(f"rank/{self._rank}", _LEFT.decode())
            while self._rank == 0 and not all(self._has_left(rank) for rank in self._watched):
                if self._lost.wait(0.05):
                    break
        self._closed.set()
        for thread in self._threads:
            thread.join(timeout=2)
        for descriptor in self._rank_of:
            os.close(descriptor)

    def judge(self, error: BaseException, final: bool) -> RankLost | None:
        """Return the loss of which an error is the echo; else tell the others of it and return None.

        Args:
            error: what ends this rank.
            final: the same error would come again.
        """
        echo = _of_a_collective(error)
        if echo:
            self._lost.wait(ECHO_SECONDS)
        self._deadline = min(self._deadline, self._clock + self._grace)  # a process may hang as it ends, too
        if self.loss is not None and (echo or not final):
            with self._noting:
                say = self._is_speaker(self.loss) and not self._said
                self._said = True
            return RankLost(self.loss, say)
        with contextlib.suppress(RuntimeError):
            self._store.compare_set("loss", "", Loss.of(self._places[self._rank], error, final).to_json())
            self._store.set(f"heard/{self._rank}", "yes")
        return None

    def wait_until_heard(self) -> bool:
        """Wait a moment for rank 0 to hear what this rank told, or for all others to hear rank 0.

        Returns:
            Whether they did.
        """
        keys = [f"heard/{rank}" for rank in self._watched]
        deadline = time.monotonic() + HEARD_SECONDS
        with contextlib.suppress(RuntimeError):
            while time.monotonic() < deadline:
                if all(self._store.multi_get(keys)):
                    return True
                time.sleep(0.05)
        return False

    def _listen(self) -> None:
        """Give signs of life, and look for those of others and for losses."""
        beats = 0
        last: dict[int, tuple[bytes, float]] = dict.fromkeys(self._watched, (b"", 0.0))
        while not self._closed.is_set():
            ended = self._ended_processes()
            try:
                beats += 1
                # A sign of life does not take the place of a leave that was taken meanwhile.
                self._store.compare_set(f"rank/{self._rank}", str(beats - 1), str(beats))
                loss, *states = self._store.multi_get(["loss", *(f"rank/{rank}" for rank in self._watched)])
                if loss:
                    self._note(Loss.from_json(loss))
                for rank in ended:
                    if not self._has_left(rank):
                        self._note(Loss(self._places[rank], _ENDED))
            except RuntimeError:  # the store is gone, and with it rank 0 or the launcher
                if not self._closed.is_set():
                    self._note(
                        Loss(self._places[ended[0]], _ENDED) if ended else Loss(self._places[0], _UNREACHABLE)
                    )
                return
            self._answered = self._clock
            for rank, state in zip(self._watched, states, strict=True):
                before, heard = last[rank]
                if state != before:
                    last[rank] = (state, self._clock)
                elif state != _LEFT and self._clock - heard > self._silence:
                    self._note(self._silent(rank))

    def _keep_time(self) -> None:
        """Count the time; miss a store that does not answer; end this process when its grace is over."""
        before = time.monotonic()
        while not self._closed.wait(self._poll):
            now = time.monotonic()
            self._clock += min(now - before, 5.0)
            before = now
            if self._clock - self._answered > self._silence and self.loss is None:
                self._note(self._silent(0), tell=False)
            if self._clock >= self._deadline:
                if self.loss is not None:
                    self._say()
                self._end()
                return

    def _silent(self, rank: int) -> Loss:
        return Loss(self._places[rank], f"no sign of life for {self._silence:.0f} s")

    def _has_left(self, rank: int) -> bool:
        return self._store.get(f"rank/{rank}") == _LEFT

    def _watch_process(self, place: Place) -> None:
        with contextlib.suppress(OSError, AttributeError):  # Linux alone has such descriptors
            descriptor = os.pidfd_open(place.pid)
            self._rank_of[descriptor] = place.rank
            self._processes.register(descriptor, select.POLLIN)

    def _ended_processes(self) -> list[int]:
        """Wait for the next look into the store, or for the end of a process; return the ranks that ended."""
        ended = []
        for descriptor, _ in self._processes.poll(self._poll * 1000):
            self._processes.unregister(descriptor)
            os.close(descriptor)
            ended.append(self._rank_of.pop(descriptor))
        return ended

    def _note(self, loss: Loss, tell: bool = True) -> None:
        """Take note of the first loss, and tell the others."""
        with self._noting:
            if self.loss is not None:
                return
            self._deadline = min(self._deadline, self._clock + self._grace)
            if tell:
                with contextlib.suppress(RuntimeError):
                    loss = Loss.from_json(self._store.compare_set("loss", "", loss.to_json()))
                    self._store.set(f"heard/{self._rank}", "yes")
            if loss.place.rank == self._rank:
                return  # it says itself why it ends
            self.loss = loss
            if not loss.worded:
                self._say()  # at once: whoever started the ranks may soon end this one
            self._lost.set()

    def _say(self) -> None:
        """Tell the user of the loss, unless that was done or another rank does it."""
        assert self.loss is not None
        if self._is_speaker(self.loss) and not self._said:
            self._said = True
            log.error(str(self.loss), extra={**EVERY_RANK, "loss": self.loss})

    def _is_speaker(self, loss: Loss) -> bool:
        """One surviving rank of a host speaks; where the lost one had words of its own, only rank 0 does."""
        host = self._places[self._rank].host
        if loss.worded and loss.place.host == host:
            return self._rank == 0
        there = [p.rank for p in self._places if p.host == host and p.rank != loss.place.rank]
        return self._rank == min(there, default=self._rank)


def _of_a_collective(error: BaseException | None) -> bool:
    """Say whether an error, or one that it came from, is that of a collective whose other ranks are gone."""
    while error is not None:
        text = str(error).lower()
        if isinstance(error, dist.DistError):
            return True
        if isinstance(error, RuntimeError) and any(word in text for word in ("gloo", "nccl", "tcpstore")):
            return True
        error = error.__cause__ or error.__context__
    return False


def watch_ranks(rank: int) -> RankMonitor:
    """Begin to watch the other ranks of the process group; every rank takes part."""
    name = [uuid.uuid4().hex]
    dist.broadcast_object_list(name, src=0)
    store = dist.PrefixStore(name[0], _own_connection())
    RankMonitor.prepare(store, rank)
    places: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(places, Place.here(rank))
    return RankMonitor(store, places, rank)


def _own_connection() -> dist.Store:
    """Return a connection to the store of the process group that nothing else waits on."""
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    if address is None or port is None:
        return dist.distributed_c10d._get_default_store()
    return dist.TCPStore(address, int(port), is_master=False, wait_for_workers=False)
