"""Random numbers that belong to samples."""

from __future__ import annotations

import pytest
import torch

from trainer.utils.random import RowRandom, SampleRandom


@pytest.mark.parametrize("draw", ["normal", "uniform"])
def test_ranks_see_the_rows_of_one_global_batch(draw: str) -> None:
    whole = getattr(SampleRandom(3, step=5), draw)((6, 4))
    parts = [getattr(SampleRandom(3, 5, rank, 3), draw)((2, 4)) for rank in range(3)]
    assert torch.equal(whole, torch.cat(parts))


def test_a_step_has_its_own_numbers_and_always_the_same() -> None:
    assert torch.equal(SampleRandom(3, 5).normal((4,)), SampleRandom(3, 5).normal((4,)))
    assert not torch.equal(SampleRandom(3, 5).normal((4,)), SampleRandom(3, 6).normal((4,)))
    assert not torch.equal(SampleRandom(3, 5).normal((4,)), SampleRandom(4, 5).normal((4,)))


def test_nobody_else_touches_the_numbers_of_a_step() -> None:
    torch.manual_seed(0)
    first = SampleRandom(3, 5).normal((4,))
    torch.randn(100)
    assert torch.equal(first, SampleRandom(3, 5).normal((4,)))


def test_they_are_standard_normal_and_uniform() -> None:
    random = SampleRandom(0, 0)
    normal, uniform = random.normal((100_000,)), random.uniform((100_000,))
    assert normal.mean().item() == pytest.approx(0, abs=0.02)
    assert normal.std().item() == pytest.approx(1, abs=0.02)
    assert uniform.mean().item() == pytest.approx(0.5, abs=0.01)
    assert 0 <= uniform.min().item() <= uniform.max().item() < 1


def test_a_row_keeps_its_numbers_when_others_leave() -> None:
    together = RowRandom([10, 11, 12])
    alone = RowRandom([12])
    assert torch.equal(together.normal((3, 2))[2:], alone.normal((1, 2)))
    together.keep([0, 2])
    assert torch.equal(together.normal((2, 2))[1:], alone.normal((1, 2)))


def test_streams_are_independent_and_the_first_is_the_default():
    policy, other = SampleRandom(3, 5, stream=0), SampleRandom(3, 5, stream=1)
    first = policy.normal((4,))
    assert torch.equal(first, SampleRandom(3, 5).normal((4,)))
    assert not torch.equal(first, other.normal((4,)))


def test_all_ranks_share_a_permutation():
    orders = []
    for rank in range(3):
        random = SampleRandom(3, 5, rank, 3)
        random.uniform((2, 4))
        orders.append(random.permutation(6))
    whole = SampleRandom(3, 5)
    whole.uniform((6, 4))
    assert orders == [whole.permutation(6)] * 3
    assert sorted(orders[0]) == list(range(6))
