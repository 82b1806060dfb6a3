"""Ranks that look out for each other: who is lost is noticed, and why."""

from __future__ import annotations

import contextlib
import json
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from trainer.runtime.rank_monitor import Lookout, Loss, Place, RankLost

HOSTS = ["first", "first", "second"]
PLACES = [Place(rank, host, 100 + rank) for rank, host in enumerate(HOSTS)]
Group = tuple[list[Lookout], list[socket.socket], list[int]]


@contextlib.contextmanager
def group(ranks: int = 3, silence: float = 30.0, grace: float = 30.0) -> Iterator[Group]:
    """Yield the lookouts of so many ranks, the connections of all but rank 0, and who was ended."""
    ended: list[int] = []

    def end(rank: int) -> Callable[[], None]:
        return lambda: ended.append(rank)

    server = socket.create_server(("127.0.0.1", 0))
    links = [socket.create_connection(server.getsockname()) for _ in range(1, ranks)]
    times = {"silence": silence, "grace": grace, "beat": 0.05, "token": "t"}
    main = Lookout(PLACES, 0, server=server, end=end(0), **times)  # type: ignore[arg-type]
    others = [Lookout(PLACES, r, link=links[r - 1], end=end(r), **times) for r in range(1, ranks)]  # type: ignore[arg-type]
    lookouts = [main, *others]
    until(lambda: len(main._peers) == ranks - 1 and all(p.rank is not None for p in main._peers))
    yield lookouts, links, ended
    for lookout in reversed(lookouts):
        lookout.leave()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def losses(lookouts: list[Lookout]) -> list[tuple[int, str] | None]:
    return [(x.loss.place.rank, x.loss.why) if x.loss else None for x in lookouts]


def test_who_takes_leave_is_not_missed() -> None:
    with group() as (lookouts, _, ended):
        lookouts[1].leave()
        time.sleep(0.3)
        lookouts[0].leave()
        time.sleep(0.3)
        assert losses(lookouts) == [None, None, None]
    assert ended == []


@pytest.mark.parametrize("dead", [0, 1])
def test_a_closed_connection_is_a_death_of_which_everybody_hears(dead: int) -> None:
    with group() as (lookouts, links, _):
        if dead == 0:
            kill(lookouts[0])
        else:
            links[dead - 1].shutdown(socket.SHUT_RDWR)
        others = [x for rank, x in enumerate(lookouts) if rank != dead]
        until(lambda: all(x.loss is not None for x in others))
        why = "its process ended without a word, as when it is killed"
        expected = f"Rank {dead} (host first, process {PLACES[dead].pid}) is lost: {why}"
        assert [str(x.loss) for x in others] == [expected] * 2


def kill(lookout: Lookout) -> None:
    """Leave without a word, as the system does for a process that is killed."""
    lookout._closed.set()
    lookout._wake.send(b"x")
    lookout._thread.join()


def test_silence_is_a_death_and_who_heard_of_one_is_ended_after_the_grace() -> None:
    with group(silence=0.6, grace=0.3) as (lookouts, _, ended):
        lookouts[2]._beat = 1000  # its connection stays
        until(lambda: ended.count(0) == 1 and ended.count(1) == 1)
        assert {x.loss.place.rank for x in lookouts[:2] if x.loss} == {2}


def test_the_last_words_of_a_rank_reach_the_others() -> None:
    with group() as (lookouts, _, _):
        assert lookouts[1].judge(RuntimeError("the gripper fell off"), final=False) is None
        until(lambda: lookouts[0].loss is not None and lookouts[2].loss is not None)
        lost = lookouts[2].judge(RuntimeError("[gloo] Connection closed by peer"), final=False)
        assert isinstance(lost, RankLost)
        assert str(lost) == "Rank 1 (host first, process 101) failed: RuntimeError: the gripper fell off"
        assert lost.say, "it is the only one on its host"
        lost = lookouts[0].judge(RuntimeError("NCCL communicator was aborted"), final=False)
        assert lost is not None
        assert lost.say
        until(lambda: lookouts[1].heard_by_main)


def test_a_mistake_that_all_ranks_make_is_nobody_s_echo() -> None:
    with group() as (lookouts, _, _):
        for lookout in lookouts:
            assert lookout.judge(ValueError("unknown key"), final=True) is None
        until(lambda: lookouts[1].heard_by_main and lookouts[2].heard_by_main)
        until(lambda: all(x.loss is not None for x in lookouts[1:]))


def test_an_error_of_a_collective_waits_for_the_news() -> None:
    with group() as (lookouts, links, _):
        timer = threading.Timer(0.3, lambda: links[0].shutdown(socket.SHUT_RDWR))
        timer.start()
        lost = lookouts[0].judge(RuntimeError("gloo: Connection reset by peer"), final=False)
        assert lost is not None
        assert lost.loss.place.rank == 1


def test_strangers_are_not_listened_to() -> None:
    with group(2) as (lookouts, _, _):
        server = lookouts[0]._server
        assert server is not None
        with socket.create_connection(server.getsockname()) as stranger:
            word = {"hello": 1, "token": "guess", "lost": {"place": {}, "why": "x"}}
            stranger.sendall(json.dumps(word).encode() + b"\n")
            assert stranger.recv(100) in (b"",)
        for line in (b"GET / HTTP/1.1\r\n\r\n", b"5\n", b"[" * 20_000 + b"\n"):
            with socket.create_connection(server.getsockname()) as stranger:
                stranger.sendall(line)
                stranger.settimeout(20)
                with contextlib.suppress(ConnectionResetError):
                    assert stranger.recv(100) == b""
        assert lookouts[0]._thread.is_alive()
        time.sleep(0.1)
        assert losses(lookouts) == [None, None]


def test_a_loss_travels_between_processes() -> None:
    lost = RankLost(Loss(PLACES[1], "out of memory", worded=True), say=False)
    again = pickle.loads(pickle.dumps(lost))
    assert (again.loss, again.say, str(again)) == (lost.loss, False, str(lost))
