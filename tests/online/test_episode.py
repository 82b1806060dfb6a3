"""Bad episodes: one sentence each, and nothing is stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.collected import ACTION, CAMERAS, STATE, collected, plain_facts, seeing_facts

from trainer.online.episode import Episode, EpisodeError, check_episode
from trainer.online.replay import ReplayBuffer

TOP = next(iter(CAMERAS))


def with_columns(**changes: Any) -> Callable[[Episode], Any]:
    """Return a change of columns, of which None is left out."""

    def change(episode: Episode) -> Episode:
        named = {name.replace("__", "."): value for name, value in changes.items()}
        columns = {**episode.columns, **named}
        return replace(episode, columns={name: c for name, c in columns.items() if c is not None})

    return change


def at(name: str, place: Any, value: Any) -> Callable[[Episode], Any]:
    def change(episode: Episode) -> Episode:
        column = episode.columns[name].copy()
        column[place] = value
        return replace(episode, columns={**episode.columns, name: column})

    return change


BAD: dict[str, tuple[Callable[[Episode], Any], str]] = {
    "a missing feature": (with_columns(action=None), "lacks 'action'"),
    "an unknown one": (
        with_columns(observation__sate=np.zeros((10, 3), np.float32)),
        "has 'observation.sate', which the dataset has not; did you mean 'observation.state'?",
    ),
    "another width": (
        with_columns(action=np.zeros((10, 3), np.float32)),
        "has 'action' of shape (10, 3); it should be (T, 2)",
    ),
    "no time": (with_columns(action=np.float32(0)), "has 'action' of shape (); it should be (T, 2)"),
    "another length": (
        with_columns(action=np.zeros((9, 2), np.float32)),
        "has 10 steps of 'observation.state' and 9 of 'action'",
    ),
    "NaN": (at(ACTION, (4, 1), np.nan), "has NaN or an infinite number in 'action' at step 4"),
    "infinity": (
        at(STATE, (0, 0), -np.inf),
        "has NaN or an infinite number in 'observation.state' at step 0",
    ),
    "too large a number": (
        with_columns(action=np.full((10, 2), 1e300)),
        "has in 'action', at step 0, what does not fit: stored as float64, 1e+300 does not fit float32",
    ),
    "text": (
        with_columns(action=np.full((10, 2), "left")),
        "has in 'action', at step 0, what does not fit: <U4 is not made of numbers that float32 can hold",
    ),
    "rows of different lengths": (
        with_columns(action=[[0.0, 1.0]] * 9 + [[0.0]]),
        "has 'action' with rows of different lengths",
    ),
    "a mode that is none": (
        lambda e: replace(e, control_mode=np.array([0] * 9 + [7])),
        "has the control_mode 7 at step 9; it is one of 0 (auto), 1 (expert), 2 (human)",
    ),
    "half a version": (
        lambda e: replace(e, policy_version=np.full(10, 0.5)),
        "has in 'policy_version', at step 0, what does not fit: stored as float64, 0.5 does not fit int64",
    ),
    "a version below 0": (
        lambda e: replace(e, policy_version=np.full(10, -1)),
        "has a policy_version below 0",
    ),
    "flags for fewer steps": (
        lambda e: replace(e, labelled=np.zeros(8, bool)),
        "has 10 steps of 'observation.state' and 8 of 'labelled'",
    ),
    "float pictures": (
        with_columns(**{TOP.replace(".", "__"): np.zeros((10, 3, 8, 12))}),
        f"has pictures '{TOP}' of float64; they should be uint8, 0 to 255",
    ),
    "pictures of another size": (
        with_columns(**{TOP.replace(".", "__"): np.zeros((10, 3, 12, 8), np.uint8)}),
        f"has pictures '{TOP}' of shape (10, 3, 12, 8); they should be (T, 3, 8, 12) or (T, 8, 12, 3)",
    ),
    "fewer steps than a window": (
        lambda _: collected(3, cameras=True),
        "has 3 steps, fewer than the 4 of the longest window, that of 'action'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_episode_is_refused_in_one_sentence_and_nothing_is_stored(tmp_path: Path, case: str) -> None:
    change, sentence = BAD[case]
    replay = ReplayBuffer(tmp_path)
    replay.describe(seeing_facts())
    with pytest.raises(EpisodeError) as raised:
        replay.add(change(collected(10, cameras=True)), key="a")
    assert str(raised.value) == f"the episode of 'worker' {sentence}; it was not stored"
    assert replay.size() == (0, 0)
    assert replay.counts().episodes == 0
    assert list((tmp_path / "journal").iterdir()) == []
    assert replay.add(collected(10, cameras=True), key="a") == 0


def test_columns_that_are_no_columns_are_refused_without_an_episode_around_them(tmp_path: Path) -> None:
    replay = ReplayBuffer(tmp_path)
    replay.describe(plain_facts())
    for action in (None, 3.0, [[0.0, 1.0]] * 9 + [[0.0]], "left"):
        with pytest.raises(EpisodeError, match="it was not stored"):
            replay.add({ACTION: action, STATE: collected(10).columns[STATE]})
    assert replay.size() == (0, 0)


def test_an_episode_without_columns_is_refused(tmp_path: Path) -> None:
    replay = ReplayBuffer(tmp_path)
    replay.describe(plain_facts())
    with pytest.raises(EpisodeError, match="an episode has no columns"):
        replay.add({"task": "reach"})
    assert list((tmp_path / "journal").iterdir()) == []


def test_numbers_take_the_types_of_the_dataset_where_each_stays_what_it_is() -> None:
    episode = collected(10)
    columns = {name: column.astype(np.float64) for name, column in episode.columns.items()}
    given = replace(episode, columns=columns, control_mode=[0] * 10, labelled=np.zeros(10, np.int64))
    checked = check_episode(given, plain_facts())
    assert {name: column.dtype.name for name, column in checked.columns.items()} == {
        STATE: "float32",
        ACTION: "float32",
    }
    np.testing.assert_array_equal(checked.columns[ACTION], episode.columns[ACTION])
    kinds = [checked.control_mode.dtype, checked.labelled.dtype, checked.policy_version.dtype]
    assert kinds == [np.int8, np.bool_, np.int64]


def test_columns_alone_are_an_episode_of_the_policy_that_came_to_its_goal(tmp_path: Path) -> None:
    replay = ReplayBuffer(tmp_path)
    replay.describe(plain_facts())
    columns = collected(10).columns
    replay.add(columns)
    replay.add({**columns, "control_mode": np.array([0] * 4 + [2] * 6), "success": False, "task": "push"})
    counts = replay.counts()
    assert counts.modes == {"auto": 14, "expert": 0, "human": 6}
    assert (counts.labels, counts.outcomes) == (6, (True, False))
    assert set(replay.sample(200, (0,))["task"]) == {"reach", "push"}
