"""Ranks that watch each other: who is lost is noticed, and why."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch.distributed as dist

from trainer.runtime.rank_loss import Loss, Place, RankLost
from trainer.runtime.rank_monitor import RankMonitor

PLACES = [Place(rank, host, 100 + rank) for rank, host in enumerate(["first", "first", "second"])]
Group = tuple[list[RankMonitor], list[int]]


@contextlib.contextmanager
def group(
    places: list[Place] = PLACES,
    silence: float = 30.0,
    grace: float = 30.0,
    stores: list[Any] | None = None,
    poll: float = 0.05,
) -> Iterator[Group]:
    """Yield the monitors of some ranks, and the list of those that were ended."""
    ended: list[int] = []
    shared = dist.HashStore()
    stores = stores or [shared] * len(places)
    for place in places:
        RankMonitor.prepare(stores[place.rank], place.rank)

    def end(rank: int) -> Callable[[], None]:
        return lambda: ended.append(rank)

    monitors = [
        RankMonitor(stores[p.rank], places, p.rank, end=end(p.rank), silence=silence, grace=grace, poll=poll)
        for p in places
    ]
    yield monitors, ended
    threads = [threading.Thread(target=monitor.leave) for monitor in monitors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def fall_silent(monitor: RankMonitor) -> None:
    """Stop as a process that is stopped."""
    monitor._closed.set()
    for thread in monitor._threads:
        thread.join()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def lost_ranks(monitors: list[RankMonitor]) -> list[int | None]:
    return [m.loss.place.rank if m.loss else None for m in monitors]


def test_who_takes_leave_is_not_missed() -> None:
    # Longer than a thread of a busy machine may wait for its turn, which is silence as well.
    with group(silence=4.0) as (monitors, ended):
        monitors[1].leave()
        monitors[2].leave()
        time.sleep(5.0)
        monitors[0].leave()
        assert lost_ranks(monitors) == [None, None, None]
    assert ended == []


def test_the_end_of_a_process_of_the_same_machine_is_a_death_of_which_everybody_hears() -> None:
    process = subprocess.Popen(["sleep", "60"])
    here = Place.here(0)
    places = [here, replace(here, rank=1, pid=process.pid), Place(2, "elsewhere", 102)]
    with group(places) as (monitors, _):
        time.sleep(0.3)
        assert lost_ranks(monitors) == [None, None, None]
        process.kill()
        until(lambda: monitors[0].loss is not None and monitors[2].loss is not None)
        why = "its process ended without a word, as when it is killed"
        expected = f"Rank 1 (host {here.host}, process {process.pid}) is lost: {why}"
        assert [str(monitors[rank].loss) for rank in (0, 2)] == [expected] * 2
    process.wait()


@pytest.mark.parametrize("silent", [0, 2])
def test_silence_is_a_death_and_who_heard_of_one_is_ended_after_the_grace(silent: int) -> None:
    with group(silence=0.6, grace=0.3) as (monitors, ended):
        fall_silent(monitors[silent])
        others = [rank for rank in range(3) if rank != silent]
        until(lambda: sorted(ended) == others)
        assert {monitors[rank].loss.place.rank for rank in others} == {silent}  # type: ignore[union-attr]
        assert str(monitors[others[0]].loss).endswith("is lost: no sign of life for 1 s")


class Failing:
    """A store to which the connection breaks, or on which nobody answers any more."""

    def __init__(self, store: dist.Store, answers: Callable[[], None]) -> None:
        self.store, self.answers, self.fails = store, answers, False

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*values: Any) -> Any:
            if self.fails:
                self.answers()
            return getattr(self.store, name)(*values)

        return call


@pytest.mark.parametrize("stuck", [False, True])
def test_a_store_that_is_gone_or_does_not_answer_is_the_death_of_rank_0(stuck: bool) -> None:
    released = threading.Event()

    def answers() -> None:
        released.wait(20 if stuck else 0)
        raise dist.DistNetworkError("Connection reset by peer")

    store = dist.HashStore()
    failing = Failing(store, answers)
    stores: list[Any] = [store, failing, store]
    with group(silence=0.6, grace=0.3, stores=stores) as (monitors, ended):
        until(lambda: monitors[1]._answered > 0)
        failing.fails = True
        until(lambda: 1 in ended)
        why = "no sign of life for 1 s" if stuck else "neither it nor who started it can be reached"
        assert str(monitors[1].loss) == f"Rank 0 (host first, process 100) is lost: {why}"
        released.set()


def test_the_last_words_of_a_rank_reach_the_others() -> None:
    with group() as (monitors, _):
        assert monitors[1].judge(RuntimeError("the gripper fell off"), final=False) is None
        assert monitors[1].wait_until_heard()
        lost = monitors[2].judge(RuntimeError("[gloo] Connection closed by peer"), final=False)
        assert isinstance(lost, RankLost)
        assert str(lost) == "Rank 1 (host first, process 101) failed: RuntimeError: the gripper fell off"
        assert lost.say, "it is the only one on its host"
        lost = monitors[0].judge(RuntimeError("NCCL communicator was aborted"), final=False)
        assert lost is not None
        assert lost.say
        assert monitors[1].loss is None, "it is no echo of itself"


def test_a_mistake_that_all_ranks_make_is_nobody_s_echo() -> None:
    with group() as (monitors, _):
        for monitor in monitors:
            assert monitor.judge(ValueError("unknown key"), final=True) is None
        assert all(monitor.wait_until_heard() for monitor in monitors)


def test_an_error_of_a_collective_waits_for_the_news() -> None:
    with group() as (monitors, _):
        timer = threading.Timer(0.3, lambda: monitors[1].judge(KeyError("action"), final=False))
        timer.start()
        lost = monitors[0].judge(RuntimeError("gloo: Connection reset by peer"), final=False)
        assert lost is not None
        assert lost.loss.place.rank == 1


def test_ranks_that_meet_wait_for_the_last_or_for_the_news_that_it_will_not_come() -> None:
    with group() as (monitors, _):
        arrived: list[int] = []

        def meet(rank: int) -> None:
            with contextlib.suppress(RankLost):
                monitors[rank].meet()
                arrived.append(rank)

        for expected in ([0, 1, 2], [0, 1, 2, 0, 1, 2]):
            threads = [threading.Thread(target=meet, args=(rank,)) for rank in (0, 1)]
            for thread in threads:
                thread.start()
            time.sleep(0.2)
            assert len(arrived) == len(expected) - 3
            meet(2)
            for thread in threads:
                thread.join()
            assert sorted(arrived[-3:]) == [0, 1, 2]
            assert len(arrived) == len(expected)
        threading.Timer(0.2, lambda: monitors[2].judge(KeyError("action"), final=False)).start()
        with pytest.raises(RankLost, match=r"Rank 2 .* failed: KeyError: 'action'"):
            monitors[0].meet()


def test_a_process_that_was_stopped_itself_misses_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a long stop of all ranks, the first to look sees old signs of life."""
    jump, now = [0.0], time.monotonic
    monkeypatch.setattr("trainer.runtime.rank_monitor.time.monotonic", lambda: now() + jump[0])
    with group(silence=8.0) as (monitors, _):
        time.sleep(0.2)
        jump[0] = 1000.0
        time.sleep(0.5)
        assert lost_ranks(monitors) == [None, None, None]


def test_a_loss_travels_between_processes() -> None:
    lost = RankLost(Loss(PLACES[1], "out of memory", worded=True), say=False)
    again = pickle.loads(pickle.dumps(lost))
    assert (again.loss, again.say, str(again)) == (lost.loss, False, str(lost))
    assert Loss.from_json(lost.loss.to_json().encode()) == lost.loss
    assert Place.here(3).pid == os.getpid()
