"""How often each window is drawn, against frequencies that are worked out step by step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.collected import collected, plain_facts

from trainer.online.episode import AUTO, EXPERT, HUMAN, Episode
from trainer.online.replay import ReplayBuffer
from trainer.online.sampling import DrawTable, shares

DRAWN = 200_000
EPISODES = [
    collected(12, 0, success=False),
    collected(9, 1, mode=[AUTO] * 4 + [EXPERT] * 5, labelled=[False] * 4 + [True] * 5, success=False),
    collected(8, 2, labelled=True, success=True),  # as an expert relabels
    collected(10, 3, mode=[AUTO] * 6 + [HUMAN] * 4, labelled=[False] * 6 + [True] * 4, success=True),
    collected(11, 4, success=True),
]
STEPS = [(episode, step) for episode in EPISODES for step in range(len(episode))]


def expected(settings: dict[str, Any]) -> np.ndarray:
    """Return the share of each step, worked out one by one."""
    kind = settings["sampling"]

    def weight(place: int, episode: Episode, step: int) -> float:
        given = bool(episode.labelled[step])
        if not settings.get("keep_failures", True) and not given and not episode.success:
            return 0.0
        if kind == "expert":
            return 1.0 if given else 0.0
        if kind == "recent":
            return math.exp(-(len(STEPS) - 1 - place) / settings["recent_steps"])
        if kind == "intervention":
            return settings["intervention_weight"] if episode.control_mode[step] in (EXPERT, HUMAN) else 1.0
        return 1.0

    weights = np.array([weight(place, *one) for place, one in enumerate(STEPS)])
    return weights / weights.sum()


@pytest.mark.parametrize("keep_failures", [True, False])
@pytest.mark.parametrize(
    "settings",
    [
        {"sampling": "uniform"},
        {"sampling": "expert"},
        {"sampling": "recent", "recent_steps": 15},
        {"sampling": "intervention", "intervention_weight": 2.5},
    ],
    ids=lambda settings: settings["sampling"],
)
def test_windows_are_drawn_as_often_as_they_should(
    tmp_path: Path, settings: dict[str, Any], keep_failures: bool
) -> None:
    settings = {**settings, "keep_failures": keep_failures}
    replay = ReplayBuffer(tmp_path, settings)
    replay.describe(plain_facts())
    for episode in EPISODES:
        replay.add(episode)
    share = expected(settings)
    assert replay.size() == (np.count_nonzero(share), len(STEPS))
    counted = np.bincount(replay.sample(DRAWN, (1, 2))["index"], minlength=len(STEPS))
    assert (counted[share == 0] == 0).all()
    # Of so many independent draws each count is off by its standard deviation; none by five of them.
    deviation = np.sqrt(DRAWN * share * (1 - share))
    assert (np.abs(counted - DRAWN * share) <= 5 * deviation).all()
    chi_squared = float((((counted - DRAWN * share) ** 2)[share > 0] / (DRAWN * share[share > 0])).sum())
    freedom = np.count_nonzero(share) - 1
    assert abs(chi_squared - freedom) < 5 * math.sqrt(2 * freedom)


def test_the_age_of_a_window_is_counted_in_steps_that_came_after_it(tmp_path: Path) -> None:
    replay = ReplayBuffer(tmp_path, {"sampling": "recent", "recent_steps": 20, "capacity": 60})
    replay.describe(plain_facts())
    for number in range(8):
        replay.add(collected(20, number))
    index = replay.sample(DRAWN, (3,))["index"]
    assert index.min() >= 100  # what is in memory
    per_episode = np.bincount(index // 20, minlength=8)[5:]
    np.testing.assert_allclose(per_episode[1:] / per_episode[:-1], math.e, rtol=0.05)


def test_very_old_windows_still_count_as_usable(tmp_path: Path) -> None:
    replay = ReplayBuffer(tmp_path, {"sampling": "recent", "recent_steps": 1})
    replay.describe(plain_facts())
    replay.add(collected(2000))
    assert replay.size() == (2000, 2000)


def test_a_share_at_the_very_end_is_the_last_row_that_can_be_drawn() -> None:
    table = DrawTable(np.array([0.0, 0.1, 0.2, 0.3, 0.0]))
    assert table.draw(np.array([0.0, 1 - 2**-53])).tolist() == [1, 3]


def test_shares_are_numbers_of_pcg64_and_do_not_depend_on_how_they_are_cut() -> None:
    whole = shares((5, 6), 0, 1000)
    words = np.random.Generator(np.random.PCG64(np.random.SeedSequence([5, 6])))
    np.testing.assert_array_equal(whole, words.random(1000))
    np.testing.assert_array_equal(shares((5, 6), 250, 50), whole[250:300])
