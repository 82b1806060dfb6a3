"""Start seeds and intervals: pure functions, against their definitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.evaluation.intervals import score_interval, wilson_interval
from trainer.evaluation.starts import start_seed_sequence, start_seeds


@given(st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 60), st.integers(0, 60))
def test_recording_evaluation_and_collection_never_share_a_start(
    seed: int, other: int, recorded: int, tried: int
) -> None:
    a, b = start_seeds(seed, recorded, "recording"), start_seeds(other, tried, "evaluation")
    c = start_seeds(seed, recorded, "collection")
    assert len({*a, *b, *c}) == recorded + tried + recorded
    assert all(0 <= s < 2**31 for s in a + b)
    assert all(2**31 <= s < 2**32 for s in c)


def test_more_starts_begin_with_the_same_ones() -> None:
    assert start_seeds(3, 40, "evaluation")[:10] == start_seeds(3, 10, "evaluation")
    assert list(itertools.islice(start_seed_sequence(3, "evaluation"), 5)) == start_seeds(3, 5, "evaluation")
    assert start_seeds(3, 10, "evaluation") != start_seeds(4, 10, "evaluation")


def test_the_starts_of_a_seed_never_change() -> None:
    """Published results name their seed; other starts under it would make them irreproducible."""
    assert start_seeds(0, 3, "recording") == [1826701614, 1367864806, 1097657232]
    assert start_seeds(0, 3, "evaluation") == [1121323795, 1910699505, 2132340199]
    assert start_seeds(0, 3, "collection") == [4250865301, 2321051950, 2763614148]


def test_wrong_seeds_and_purposes_are_refused() -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        start_seeds(-1, 1, "recording")
    with pytest.raises(ValueError, match="'training'"):
        start_seeds(0, 1, "training")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"),
    [
        # From solving (p − x)² = z²·x(1 − x)/n by hand with z = 1.959964.
        (20, 20, 0.838875, 1.0),
        (0, 20, 0.0, 0.161125),
        (8, 10, 0.490162, 0.943318),
        (50, 100, 0.403832, 0.596168),
    ],
)
def test_wilson_interval_against_known_numbers(
    successes: int, episodes: int, low: float, high: float
) -> None:
    assert wilson_interval(successes, episodes) == pytest.approx((low, high), abs=2e-6)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_solves_its_equation(counts: tuple[int, int]) -> None:
    successes, episodes = counts
    p = successes / episodes
    low, high = wilson_interval(successes, episodes)
    assert 0.0 <= low <= p <= high <= 1.0
    for x in (low, high):
        assert (p - x) ** 2 == pytest.approx(1.959964**2 * x * (1 - x) / episodes, abs=1e-6)


def test_score_interval() -> None:
    scores = np.random.default_rng(0).uniform(0.2, 0.9, 400)
    low, high = score_interval(scores.tolist())
    half = 1.959964 * scores.std(ddof=1) / 20
    assert (low, high) == pytest.approx((scores.mean() - half, scores.mean() + half))
    assert score_interval([1.0] * 20) == wilson_interval(20, 20)
    assert score_interval([0.7]) == (0.0, 1.0)
    assert score_interval([0.99, 0.4, 1.0])[1] == 1.0
    with pytest.raises(ValueError, match="no scores"):
        score_interval([])
    with pytest.raises(ValueError, match="no success rate"):
        wilson_interval(0, 0)
