"""Who waits for whom, and how many labels an expert may still give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.collected import collected, plain_facts

from trainer.online.flow import why_not_collect, why_not_update
from trainer.online.replay import ReplayBuffer


def sides(updates: int, steps: int, windows: int, **options: Any) -> tuple[str | None, str | None]:
    given = {"start_windows": 0, "ratio": 0.5, "slack": 10, **options}
    return why_not_update(updates, steps, windows, **given), why_not_collect(updates, steps, windows, **given)


def test_the_side_that_is_ahead_by_more_than_the_slack_waits_and_says_why() -> None:
    for updates, waits in ((60, False), (61, True)):
        learner, robots = sides(updates, 100, 100)
        assert robots is None
        assert (learner is not None) == waits
    assert (
        learner
        == "61 updates are made, and 100 collected steps ask for 50 (update_ratio 0.5, update_slack 10)"
    )
    for steps, waits in ((120, False), (122, True)):
        learner, robots = sides(50, steps, 100)
        assert learner is None
        assert (robots is not None) == waits
    assert robots == (
        "122 steps are collected, which ask for 61 updates, and 50 are made "
        "(update_ratio 0.5, update_slack 10)"
    )


def test_before_the_learner_has_told_nothing_is_said_of_its_updates(tmp_path: Path) -> None:
    """A run that is taken up: the buffer has its episodes again before the learner is up."""
    given = {"start_windows": 8, "update_ratio": 1.0, "update_slack": 5}
    before = ReplayBuffer(tmp_path, {"sampling": "expert"}, **given)
    before.describe(plain_facts())
    before.add(collected(20, labelled=True))
    before.note_updates(20)
    assert before.may_collect() is None

    again = ReplayBuffer(tmp_path, {"sampling": "expert"}, **given)
    again.describe(plain_facts())
    reason = again.may_collect()
    assert reason is not None
    assert "0 are made" not in reason
    assert "the learner has not told yet how many it has made" in reason
    again.note_updates(20)
    assert again.may_collect() is None
    again.note_updates(0)  # which a learner that begins may say
    assert "and 0 are made" in str(again.may_collect())


def test_one_side_always_goes_on() -> None:
    numbers = [0, 1, 5, 10, 11, 50, 99, 100, 1000]
    for updates in numbers:
        for steps in numbers:
            for windows in (0, 19, 20, 1000):
                for slack in (1, 10, 100):
                    both = sides(updates, steps, windows, start_windows=20, slack=slack)
                    assert None in both, (updates, steps, windows, slack)


def test_before_enough_windows_are_there_the_learner_waits_and_robots_do_not() -> None:
    learner, robots = sides(0, 5000, 19, start_windows=20)
    assert learner == "19 of the 20 usable windows to start with are collected"
    assert robots is None
    assert sides(0, 5000, 20, start_windows=20)[0] is None


def test_without_a_ratio_nobody_waits() -> None:
    assert sides(10**6, 1, 1, ratio=None) == sides(0, 10**6, 1, ratio=None) == (None, None)


def test_the_buffer_counts_windows_that_may_be_drawn_and_steps_that_came(tmp_path: Path) -> None:
    replay = ReplayBuffer(tmp_path, {"sampling": "expert"}, start_windows=8, update_ratio=1.0, update_slack=5)
    replay.describe(plain_facts())
    replay.add(collected(20))
    assert replay.may_update(0) == "0 of the 8 usable windows to start with are collected"
    assert replay.may_collect() is None
    replay.add(collected(10, labelled=True))
    assert replay.may_update(35) is None
    assert replay.may_update(36) is not None
    replay.note_updates(20)
    assert replay.may_collect() is not None
    replay.note_updates(25)
    assert replay.may_collect() is None
    assert replay.counts().updates == 25


def budgeted(folder: Path, budget: int | None = 100) -> ReplayBuffer:
    replay = ReplayBuffer(folder, expert_budget=budget)
    replay.describe(plain_facts())
    return replay


def labels(count: int, source: str) -> Any:
    return collected(max(count, 10), labelled=np.arange(max(count, 10)) < count, source=source)


def test_the_budget_is_never_granted_twice(tmp_path: Path) -> None:
    replay = budgeted(tmp_path)
    assert [replay.grant_labels(40, name) for name in ("a", "b", "c")] == [40, 40, 20]
    assert replay.grant_labels(40, "d") == 0
    replay.add(labels(30, "a"))  # of 40, so 10 are still its own
    assert replay.grant_labels(40, "d") == 0
    replay.return_labels(10, "a")
    assert replay.grant_labels(40, "d") == 10
    assert replay.counts().labels == 30


def test_a_new_grant_replaces_the_one_before_so_that_a_crash_costs_nothing(tmp_path: Path) -> None:
    replay = budgeted(tmp_path)
    for _ in range(20):
        assert replay.grant_labels(60, "a") == 60
    assert replay.grant_labels(60, "b") == 40
    replay.return_labels(source="a")  # it is gone for good
    assert replay.grant_labels(100, "b") == 100


def test_grants_outlast_the_actor(tmp_path: Path) -> None:
    replay = budgeted(tmp_path)
    replay.grant_labels(30, "a")
    replay.grant_labels(25, "b")
    replay.add(labels(20, "a"))
    again = budgeted(tmp_path)
    assert again.grant_labels(100, "c") == 100 - 20 - 10 - 25


@pytest.mark.parametrize("given", [0, 15])
def test_at_the_end_of_the_budget_nothing_is_left(tmp_path: Path, given: int) -> None:
    replay = budgeted(tmp_path, 15)
    assert replay.grant_labels(50, "a") == 15
    replay.add(labels(given, "a"))
    replay.return_labels(source="a")
    assert replay.grant_labels(50, "b") == 15 - given


def test_without_a_budget_all_is_granted(tmp_path: Path) -> None:
    assert budgeted(tmp_path, None).grant_labels(10**6, "a") == 10**6
