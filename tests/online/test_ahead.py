"""Several updates' samples in one call are those of as many calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.collected import collected, plain_facts

from trainer.online.ahead import DrawnAhead
from trainer.online.mixed import DrawKey
from trainer.online.replay import ReplayBuffer


@pytest.fixture
def replay(tmp_path: Path) -> ReplayBuffer:
    made = ReplayBuffer(tmp_path)
    made.describe(plain_facts())
    for number in range(4):
        made.add(collected(20, number))
    return made


def test_each_update_gets_what_it_would_have_been_drawn_alone(replay: ReplayBuffer) -> None:
    calls: list[int] = []

    def draw(count: int, key: DrawKey, updates: int) -> dict[str, Any]:
        calls.append(updates)
        return replay.sample(count, (9, key.update), key.first, updates)

    ahead = DrawnAhead(draw)
    for update in range(40):
        for count, first in ((5, 0), (6, 5)):  # of two micro-batches
            drawn = ahead(count, DrawKey(update, first))
            alone = replay.sample(count, (9, update), first)
            assert list(drawn) == list(alone)
            for name, value in alone.items():
                np.testing.assert_array_equal(drawn[name], value)
    assert sum(calls) >= 80
    assert len(calls) < 20
    assert max(calls) == 8


def test_fewer_updates_than_asked_for_are_taken(replay: ReplayBuffer) -> None:
    asked: list[int] = []

    def draw(count: int, key: DrawKey, updates: int) -> dict[str, Any]:
        asked.append(updates)
        return replay.sample(count, (9, key.update), key.first, min(updates, 3))

    ahead = DrawnAhead(draw)
    for update in range(10):
        alone = replay.sample(5, (9, update))
        np.testing.assert_array_equal(ahead(5, DrawKey(update, 0))["index"], alone["index"])
    assert asked == [1, 8, 8, 8]


def test_large_samples_are_drawn_one_update_at_a_time() -> None:
    calls: list[int] = []

    def draw(count: int, key: DrawKey, updates: int) -> dict[str, Any]:
        calls.append(updates)
        return {
            "picture": np.zeros((updates * count, 3, 1000, 1000), np.uint8),
            "task": [""] * updates * count,
        }

    ahead = DrawnAhead(draw)
    for update in range(5):
        assert ahead(2, DrawKey(update, 0))["picture"].shape == (2, 3, 1000, 1000)
    assert calls == [1] * 5


def test_after_a_jump_nothing_of_before_is_handed_out(replay: ReplayBuffer) -> None:
    ahead = DrawnAhead(lambda count, key, updates: replay.sample(count, (9, key.update), key.first, updates))
    for update in (0, 1, 2, 30, 31, 3):
        drawn = ahead(7, DrawKey(update, 0))
        np.testing.assert_array_equal(drawn["index"], replay.sample(7, (9, update))["index"])
