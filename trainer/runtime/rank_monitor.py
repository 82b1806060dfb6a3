"""Notices within a bounded time that a rank is gone, ends the others, and says which one it was and why."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import click

# A thread of every rank gives signs of life this often, so that neither a long evaluation nor a long write
# looks like death. Only a process that is stopped, or whose machine is unreachable, is silent for so long as
# SILENCE_SECONDS; one that ends is noticed at once, because the system closes its connection.
BEAT_SECONDS = 5.0
SILENCE_SECONDS = 45.0
# What a rank that heard of a loss may still take to unwind; a thread stuck in a collective does not return.
GRACE_SECONDS = 10.0
# From the death of a rank to the end of the last of the others.
BOUND_SECONDS = SILENCE_SECONDS + GRACE_SECONDS
# An error of a collective is the echo of another rank's end, of which the news may be a moment behind.
ECHO_SECONDS = 5.0
HEARD_SECONDS = 3.0
_LONGEST_LINE = 2**16
_LONGEST_REASON = 4000

Address = tuple[list[str], int, str]

# Takes the news of a loss in place of the user, where whoever started the ranks tells it.
report_loss: Callable[[Loss], None] | None = None


@dataclass(frozen=True)
class Place:
    """Where a rank runs."""

    rank: int
    host: str
    pid: int

    def __str__(self) -> str:
        return f"rank {self.rank} (host {self.host}, process {self.pid})"


@dataclass(frozen=True)
class Loss:
    """A rank that is gone.

    Attributes:
        place: which one.
        why: its last error, or how it was missed.
        worded: it said itself why.
        final: the same error comes again when the run is started again.
    """

    place: Place
    why: str
    worded: bool = False
    final: bool = False

    def __str__(self) -> str:
        verb = "failed" if self.worded else "is lost"
        text = f"{self.place} {verb}: {self.why}"
        return text[0].upper() + text[1:]


class RankLost(RuntimeError):
    """Another rank is gone, so this one cannot go on.

    Attributes:
        loss: which one, and why.
        say: this rank is the one that tells the user.
    """

    def __init__(self, loss: Loss, say: bool = True) -> None:
        super().__init__(str(loss))
        self.loss = loss
        self.say = say

    def __reduce__(self) -> tuple[Any, ...]:
        return RankLost, (self.loss, self.say)


class AgreedEnd(Exception):
    """An early end of the run on which all ranks agreed; nobody misses who leaves by it."""


@dataclass
class _Peer:
    """A connection: to rank 0, or on rank 0 to each of the others."""

    link: socket.socket
    rank: int | None
    heard: float
    buffer: bytes = b""
    left: bool = False


class Lookout:
    """Keeps this rank and rank 0 in touch; rank 0 passes on what concerns the others.

    A thread does it and waits for a socket nearly all of the time, so that a step costs nothing. When a rank
    is lost, everybody is told; a rank that has not ended by itself after the grace is ended hard.

    Args:
        places: where the ranks run, by rank.
        rank: this one.
        server: on rank 0, the socket on which the others arrive.
        link: on the others, the connection to rank 0; None where there is no way to it.
        token: what an arriving rank has to show.
        silence: seconds without a sign of life after which a rank counts as lost.
        beat: seconds between signs of life.
        grace: seconds after which a rank that heard of a loss is ended.
        end: ends this process.
    """

    def __init__(
        self,
        places: list[Place],
        rank: int,
        *,
        server: socket.socket | None = None,
        link: socket.socket | None = None,
        token: str = "",
        silence: float = SILENCE_SECONDS,
        beat: float = BEAT_SECONDS,
        grace: float = GRACE_SECONDS,
        end: Callable[[], None] = lambda: os._exit(1),
    ) -> None:
        self.loss: Loss | None = None
        self.heard_by_main = False
        self._said = False
        self._places, self._rank, self._token = places, rank, token
        self._silence, self._beat, self._grace, self._end = silence, beat, grace, end
        self._lost, self._heard, self._closed = threading.Event(), threading.Event(), threading.Event()
        self._deadline = float("inf")
        self._peers: list[_Peer] = []
        self._sending = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ, "wake")
        self._server = server
        if server is not None:
            server.setblocking(False)
            self._selector.register(server, selectors.EVENT_READ, "server")
        if link is not None:
            self._add(link, 0)
            self._send({"hello": rank, "token": token})
        self._thread = threading.Thread(target=self._watch, name="lookout", daemon=True)
        self._thread.start()

    def leave(self) -> None:
        """Take leave, so that nobody misses this rank."""
        self._send({"bye": True})
        self._closed.set()
        self._wake.send(b"x")
        self._thread.join(timeout=2)

    def judge(self, error: BaseException, final: bool) -> RankLost | None:
        """Return the loss of which an error is the echo; else tell the others of it and return None.

        Args:
            error: what ends this rank.
            final: the same error would come again.
        """
        echo = _of_a_collective(error)
        if echo:
            self._lost.wait(ECHO_SECONDS)
        loss = self.loss
        if loss is not None and (echo or not final):
            say = self._is_speaker(loss) and not self._said
            self._said = True
            if self._rank == 0:
                self._send({"heard": True})
            return RankLost(loss, say)
        why = " ".join(str(error).split()) if final else f"{type(error).__name__}: {error}"
        own = Loss(self._places[self._rank], why.strip()[:_LONGEST_REASON], worded=True, final=final)
        self._send({"lost": asdict(own)})
        self._deadline = time.monotonic() + self._grace  # a process may hang as it ends, too
        self._wake.send(b"x")
        if self._rank == 0:
            self._send({"heard": True})
        return None

    def wait_until_heard(self) -> None:
        """Wait a moment for rank 0 to say to the user what this rank told it."""
        if self._rank != 0 and self._peers:
            self._heard.wait(HEARD_SECONDS)

    def _add(self, link: socket.socket, rank: int | None) -> None:
        link.setblocking(False)
        peer = _Peer(link, rank, time.monotonic())
        self._peers.append(peer)
        self._selector.register(link, selectors.EVENT_READ, peer)

    def _send(self, message: dict[str, Any], but: int | None = None) -> None:
        """Send to everybody this rank is connected to; who cannot be reached is noticed elsewhere."""
        line = json.dumps(message).encode() + b"\n"
        with self._sending:
            for peer in list(self._peers):
                if peer.rank is not None and peer.rank != but:
                    with contextlib.suppress(OSError):
                        peer.link.sendall(line)

    def _watch(self) -> None:
        next_beat = 0.0
        while not self._closed.is_set():
            now = time.monotonic()
            if now >= next_beat:
                self._send({"beat": True})
                next_beat = now + self._beat
            if now >= self._deadline:
                if self.loss is not None:
                    self._say()
                self._end()
                return
            pause = max(min(next_beat, self._deadline) - now, 0.01)
            ready = self._selector.select(pause)
            slept = time.monotonic() - now
            if slept > pause + self._beat:
                # This process was stopped, or kept from running: that the others were silent means nothing.
                for peer in self._peers:
                    peer.heard += slept - pause
            for key, _ in ready:
                if key.data == "server":
                    assert self._server is not None
                    self._add(self._server.accept()[0], None)
                elif isinstance(key.data, _Peer):
                    self._receive(key.data)
                else:
                    self._woken.recv(100)
            self._miss_the_silent()
        for peer in self._peers:
            peer.link.close()
        if self._server is not None:
            self._server.close()

    def _receive(self, peer: _Peer) -> None:
        try:
            data = peer.link.recv(_LONGEST_LINE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        peer.heard = time.monotonic()
        *lines, peer.buffer = (peer.buffer + data).split(b"\n")
        for line in lines:
            if not self._take(peer, line):
                break
        else:
            if data and len(peer.buffer) < _LONGEST_LINE:
                return
        self._drop(peer)
        if peer.rank is not None and not peer.left:
            why = "its process ended without a word, as when it is killed"
            self._note(Loss(self._places[peer.rank], why))

    def _take(self, peer: _Peer, line: bytes) -> bool:
        """Act on a message; False when it does not come from one of us."""
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            return False
        if not isinstance(message, dict):
            return False
        if peer.rank is None:
            if message.get("token") != self._token:
                return False
            peer.rank = int(message["hello"])
        if "bye" in message:
            peer.left = True
        if "heard" in message:
            self.heard_by_main = True
            self._heard.set()
        if "lost" in message:
            facts = message["lost"]
            self._note(Loss(**{**facts, "place": Place(**facts["place"])}))
        return True

    def _drop(self, peer: _Peer) -> None:
        self._selector.unregister(peer.link)
        self._peers.remove(peer)
        peer.link.close()
        self._heard.set()

    def _miss_the_silent(self) -> None:
        now = time.monotonic()
        for peer in list(self._peers):
            if peer.rank is not None and not peer.left and now - peer.heard > self._silence:
                self._note(Loss(self._places[peer.rank], f"no sign of life for {self._silence:.0f} s"))

    def _note(self, loss: Loss) -> None:
        """Take note of the first loss and pass it on."""
        if self.loss is not None:
            return
        self.loss = loss
        self._deadline = time.monotonic() + self._grace
        self._send({"lost": asdict(loss)})
        if not loss.worded:
            self._say()  # at once: whoever started the ranks may soon end this one
        self._lost.set()

    def _say(self) -> None:
        """Tell the user of the loss, unless that was done or another rank does it."""
        assert self.loss is not None
        if report_loss is not None:
            report_loss(self.loss)
        elif self._is_speaker(self.loss) and not self._said:
            self._said = True
            click.echo(f"\nError: {self.loss}", err=True)  # on a line of its own, not behind a progress bar

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
        if isinstance(error, RuntimeError) and any(word in text for word in ("gloo", "nccl", "tcpstore")):
            return True
        error = error.__cause__ or error.__context__
    return False


def keep_lookout(rank: int, one_machine: bool) -> Lookout:
    """Begin to look out for the other ranks of the process group; every rank takes part.

    Args:
        rank: this one.
        one_machine: all ranks run on this machine, so that nobody else needs to reach rank 0.
    """
    import secrets

    import torch.distributed as dist

    places: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(places, Place(rank, socket.gethostname(), os.getpid()))
    server = _listen(one_machine) if rank == 0 else None
    offer: list[Address | None] = [None]
    if server is not None:
        names = ["127.0.0.1"] if one_machine else [os.environ.get("MASTER_ADDR", ""), socket.gethostname()]
        offer = [([n for n in names if n], server.getsockname()[1], secrets.token_hex(16))]
    dist.broadcast_object_list(offer, src=0)
    assert offer[0] is not None
    names, port, token = offer[0]
    if server is not None:
        return Lookout(places, rank, server=server, token=token)
    link = _reach(names, port)
    if link is None:
        click.echo(
            f"Warning: rank {rank} does not reach rank 0 at {' or '.join(names)}, port {port}; when a rank "
            "is lost, this one may notice it only when a collective runs into its time limit.",
            err=True,
        )
    return Lookout(places, rank, link=link, token=token)


def _listen(one_machine: bool) -> socket.socket:
    if one_machine:
        return socket.create_server(("127.0.0.1", 0))
    if socket.has_dualstack_ipv6():
        return socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("0.0.0.0", 0))


def _reach(names: list[str], port: int) -> socket.socket | None:
    for name in names:
        with contextlib.suppress(OSError):
            return socket.create_connection((name, port), timeout=10)
    return None
