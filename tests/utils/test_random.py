"""Random numbers that belong to samples."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from trainer.utils.random import (
    RowRandom,
    SampleRandom,
    StepsAhead,
    normal_numbers,
    splitmix64,
    uniform_numbers,
)

CLOSE = {"rtol": 2e-6, "atol": 1e-6}
DRAWS = {
    "normal": lambda random, shape: random.normal(shape),
    "uniform": lambda random, shape: random.uniform(shape),
    "bernoulli": lambda random, shape: random.bernoulli(0.3, shape),
}


def plain_splitmix64(state: int, count: int) -> list[int]:
    """SplitMix64 as in the paper, one number after the other."""
    outputs = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        outputs.append(z ^ (z >> 31))
    return outputs


def unsigned(values: Tensor) -> list[int]:
    return [value % 2**64 for value in values.flatten().tolist()]


def kolmogorov(sample: Tensor, distribution: Tensor) -> float:
    """Return the probability that a sample differs that much from its distribution.

    Args:
        sample: n numbers.
        distribution: the distribution function at each of them.
    """
    n = sample.numel()
    values = distribution.flatten()[sample.flatten().argsort()].double()
    i = torch.arange(1, n + 1)
    distance = max(float((i / n - values).max()), float((values - (i - 1) / n).max()))
    x = (math.sqrt(n) + 0.12 + 0.11 / math.sqrt(n)) * distance
    return 2 * sum((-1) ** (k - 1) * math.exp(-2 * k * k * x * x) for k in range(1, 50))


def test_the_integers_are_those_of_splitmix64() -> None:
    # The first outputs for this seed stand in many implementations.
    assert unsigned(splitmix64(torch.tensor([1234567]), 5)) == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    for key in (0, -1, 2**63 - 1, -(2**63)):
        expected = plain_splitmix64(key % 2**64, 40)
        assert unsigned(splitmix64(torch.tensor([key]), 40)) == expected


def test_arrays_and_tensors_of_starts_give_the_same_numbers() -> None:
    starts = np.array([3, -5, 2**62, -(2**63)])
    for make, tolerance in ((splitmix64, 0.0), (uniform_numbers, 0.0), (normal_numbers, 1e-6)):
        on_host, on_device = make(starts, 33), make(torch.from_numpy(starts), 33)
        assert isinstance(on_host, np.ndarray)
        assert isinstance(on_device, Tensor)
        torch.testing.assert_close(torch.from_numpy(on_host), on_device, rtol=tolerance, atol=tolerance)


def test_numbers_are_what_the_halves_of_the_integers_say() -> None:
    keys = torch.tensor([3, -5])
    halves = [
        [half for z in plain_splitmix64(key % 2**64, 4) for half in (z % 2**32, z >> 32)] for key in (3, -5)
    ]
    uniform = [[(half % 2**24) / 2**24 for half in row] for row in halves]
    assert uniform_numbers(keys, 8).tolist() == uniform
    assert uniform_numbers(keys, 3).tolist() == [row[:3] for row in uniform]
    for row, got in zip(halves, normal_numbers(keys, 8), strict=True):
        signed = [half - 2**32 if half >= 2**31 else half for half in row]
        radius = [math.sqrt(-2 * math.log(abs(half) / 2**31)) for half in signed[:4]]
        angle = [math.pi * half / 2**31 for half in signed[4:]]
        expected = [r * f(a) for f in (math.cos, math.sin) for r, a in zip(radius, angle, strict=True)]
        torch.testing.assert_close(got.double(), torch.tensor(expected, dtype=torch.float64), **CLOSE)


def test_nobody_changes_the_numbers_of_a_run_unknowingly() -> None:
    """These fix every curve that was ever trained: whoever changes them says so in the commit."""
    random = SampleRandom(7, step=3, rank=1, world_size=2, stream=1)
    bits = (random.uniform((2, 3)) * 2**24).long().tolist()
    assert bits == [[3884303, 1413457, 1129316], [3682828, 8491077, 4252520]]
    assert (random.uniform((3,), shared=True) * 2**24).long().tolist() == [15852841, 13643759, 1765395]
    assert random.permutation(6) == [0, 5, 3, 1, 4, 2]
    normal = torch.tensor([[0.613131, -0.4852647], [0.5725372, 0.5260507]])
    torch.testing.assert_close(random.normal((2, 2)), normal, **CLOSE)
    rows = RowRandom([5, -1, 2**70])
    bits = (rows.uniform((3, 2)) * 2**24).long().tolist()
    assert bits == [[5934124, 3168068], [13014047, 9886972], [8879057, 16206732]]
    assert rows.permutation(5) == [3, 4, 1, 0, 2]


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 7), (16, 4), (3, 1999)])
def test_ranks_see_the_rows_of_one_global_batch(draw: str, shape: tuple[int, ...]) -> None:
    for ranks, batch in ((3, 2), (2, 13), (5, 7)):
        whole, parts = SampleRandom(3, 5), [SampleRandom(3, 5, rank, ranks) for rank in range(ranks)]
        for _ in range(2):
            expected = DRAWS[draw](whole, (ranks * batch, *shape))
            got = [DRAWS[draw](part, (batch, *shape)) for part in parts]
            assert torch.equal(expected, torch.cat(got))
            assert expected.is_contiguous()


def test_the_rows_of_a_sample_that_was_taken_apart_are_its_own() -> None:
    """A block may see the batch and the steps of a chunk as one dimension."""
    parts = [SampleRandom(3, 5, rank, 2).normal((4 * 6, 2)) for rank in range(2)]
    assert torch.equal(SampleRandom(3, 5).normal((8 * 6, 2)), torch.cat(parts))
    together, alone = RowRandom([10, 11]), RowRandom([11])
    assert torch.equal(together.normal((2 * 3, 5))[3:], alone.normal((3, 5)))


@pytest.mark.parametrize("draw", DRAWS)
def test_a_shared_draw_is_the_same_for_all_ranks_and_has_no_batch(draw: str) -> None:
    sources = [SampleRandom(3, 5, rank, 3) for rank in range(3)]
    options = {"p": 0.5} if draw == "bernoulli" else {}
    for shape in ((), (40,), (2, 3)):
        first, *others = [getattr(source, draw)(shape=shape, shared=True, **options) for source in sources]
        assert first.shape == shape
        assert all(torch.equal(first, other) for other in others)
    own = [source.normal((4,)) for source in sources]
    assert not torch.equal(own[0], own[1])
    assert not torch.equal(
        SampleRandom(3, 5).uniform((40,), shared=True), SampleRandom(3, 6).uniform((40,), shared=True)
    )


def test_a_step_has_its_own_numbers_and_always_the_same() -> None:
    assert torch.equal(SampleRandom(3, 5).normal((4,)), SampleRandom(3, 5).normal((4,)))
    assert not torch.equal(SampleRandom(3, 5).normal((4,)), SampleRandom(3, 6).normal((4,)))
    assert not torch.equal(SampleRandom(3, 5).normal((4,)), SampleRandom(4, 5).normal((4,)))
    numbers = np.arange(10)  # seeds and steps may be numpy's
    assert torch.equal(
        SampleRandom(3, 5).normal((4,)), SampleRandom(numbers[3], numbers[5], numbers[0]).normal((4,))
    )


def test_what_is_drawn_first_leaves_a_later_call_as_it_is() -> None:
    first, second = SampleRandom(3, 5), SampleRandom(3, 5)
    assert not torch.equal(first.normal((4, 2)), first.normal((4, 2)))
    second.uniform((8, 100))
    second.permutation(3)
    assert torch.equal(first.normal((4, 2)), second.normal((4, 2)))


def test_nobody_else_touches_the_numbers_of_a_step() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = SampleRandom(3, 5).normal((4,))
    assert torch.equal(state, torch.get_rng_state())
    torch.randn(100)
    assert torch.equal(first, SampleRandom(3, 5).normal((4,)))


@pytest.mark.parametrize("seed", [0, 1, 2024])
def test_they_are_standard_normal_and_uniform(seed: int) -> None:
    random = SampleRandom(seed)
    normal, uniform = random.normal((1024, 1024)), random.uniform((1024, 1024))
    n = normal.numel()
    for power, moment in enumerate((0, 1, 0, 3, 0, 15), start=1):
        spread = math.sqrt(math.prod(range(1, 2 * power, 2)) / n)
        assert normal.double().pow(power).mean().item() == pytest.approx(moment, abs=4 * spread)
    assert kolmogorov(normal, torch.special.ndtr(normal.double())) > 1e-3
    assert kolmogorov(uniform, uniform) > 1e-3
    assert 0 <= uniform.min().item() <= uniform.max().item() < 1
    assert 4.4 < normal.abs().max().item() < 6.66


def test_a_bernoulli_draw_is_true_as_often_as_it_says() -> None:
    random = SampleRandom(0)
    for p in (0.0, 0.01, 0.5, 1.0):
        drawn = random.bernoulli(p, (1000, 1000))
        assert drawn.dtype == torch.bool
        assert drawn.double().mean().item() == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 1e6))
    with pytest.raises(ValueError, match=r"the probability is 1\.5"):
        random.bernoulli(1.5, (4,))


def neighbours() -> dict[str, Tensor]:
    """Return numbers `(64, 16384)` whose rows differ in one thing each."""
    calls, shared, rows = SampleRandom(3, 3), SampleRandom(4, 3), SampleRandom(5).normal((64, 16384))
    return {
        "rows": rows,
        "elements": SampleRandom(5, 1).normal((16384, 64)).T,
        "steps": torch.stack([SampleRandom(3, i).normal((256, 64)).flatten() for i in range(64)]),
        "seeds": torch.stack([SampleRandom(i, 3).normal((256, 64)).flatten() for i in range(64)]),
        "streams": torch.stack([SampleRandom(3, 3, stream=i).normal((256, 64)).flatten() for i in range(64)]),
        "calls": torch.stack([calls.normal((256, 64)).flatten() for _ in range(64)]),
        "shared calls": torch.stack([shared.normal((16384,), shared=True) for _ in range(64)]),
        "seeds of rows": RowRandom(range(64)).normal((64, 16384)),
        "first elements of rows": torch.stack([SampleRandom(1, i).normal((16384,)) for i in range(64)]),
    }


def test_neighbours_have_nothing_to_do_with_each_other() -> None:
    above = np.triu_indices(64, 1)
    for name, values in neighbours().items():
        x = values.double().numpy()
        for y in (x, x**2):
            # Over 2,016 pairs the scaled correlations are standard normal.
            correlations = np.corrcoef(y)[above] * math.sqrt(y.shape[1])
            assert np.abs(correlations).max() < 5, name
            assert correlations.std() == pytest.approx(1, abs=0.08), name


def test_a_row_keeps_its_numbers_when_others_leave() -> None:
    together = RowRandom([10, 11, 12])
    alone = RowRandom([12])
    assert torch.equal(together.normal((3, 2))[2:], alone.normal((1, 2)))
    together.keep([0, 2])
    assert torch.equal(together.normal((2, 2))[1:], alone.normal((1, 2)))
    together.keep([])
    assert together.uniform((0, 2)).shape == (0, 2)


def test_rows_share_what_depends_on_none_of_them() -> None:
    one, other = RowRandom([10, 11]), RowRandom([12])
    assert torch.equal(one.uniform((3,), shared=True), other.uniform((3,), shared=True))
    assert one.permutation(9) == other.permutation(9)
    assert not torch.equal(one.uniform((3,), shared=True), one.uniform((3,), shared=True))


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


def test_every_permutation_is_as_likely_as_any_other():
    drawn = [tuple(SampleRandom(1, step).permutation(4)) for step in range(4800)]
    counts = np.array([drawn.count(order) for order in itertools.permutations(range(4))])
    assert ((counts - 200) ** 2 / 200).sum() < 23 + 4 * math.sqrt(2 * 23)


def test_neither_modes_nor_default_types_change_the_bits():
    expected = SampleRandom(3, 5).normal((4, 6))
    with torch.inference_mode():
        assert torch.equal(SampleRandom(3, 5).normal((4, 6)), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(SampleRandom(3, 5).normal((4, 6)), expected)
    torch.set_default_dtype(torch.float64)
    try:
        got = SampleRandom(3, 5).normal((4, 6))
    finally:
        torch.set_default_dtype(torch.float32)
    assert got.dtype == torch.float32
    assert torch.equal(got, expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_makes_the_same_integers():
    here, there = SampleRandom(3, 5, 1, 2), SampleRandom(3, 5, 1, 2, "cuda")
    assert torch.equal(here.uniform((33, 7)), there.uniform((33, 7)).cpu())
    torch.testing.assert_close(here.normal((33, 7)), there.normal((33, 7)).cpu(), **CLOSE)
    assert here.permutation(5) == there.permutation(5)
    assert torch.equal(RowRandom([1, 2]).uniform((2, 9)), RowRandom([1, 2], "cuda").uniform((2, 9)).cpu())


def test_a_draw_does_not_wait_for_the_device():
    """Tensors on `meta` have no values: whoever asked for one would fail."""
    for random in (SampleRandom(3, device="meta"), RowRandom([1, 2], "meta")):
        assert random.normal((2, 3)).device.type == "meta"
        assert random.bernoulli(0.5, (2, 3)).device.type == "meta"
        assert random.uniform((3,), shared=True).device.type == "meta"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: SampleRandom(0, 0, 2, 2), "there is no rank 2 among 2"),
        (lambda: SampleRandom(0).normal(()), "have no batch"),
        (lambda: RowRandom([1, 2]).normal((3, 4)), "asked for 3 rows, but the batch has 2"),
        (lambda: RowRandom([]).uniform((3, 4)), "asked for 3 rows, but the batch has 0"),
    ],
)
def test_mistakes_are_said_in_words(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_draws_that_were_made_for_some_steps_at_once_are_the_same() -> None:
    ahead = StepsAhead()
    shapes = [(64,), (4, 3), (64, 16, 4), (4, 3), (300, 1000), (0, 3)]
    for step in (0, 1, 2, 2, 15, 16, 17, 3, 1000):
        for rank, stream in itertools.product((0, 1), (0, 1)):
            place = {"step": step, "rank": rank, "world_size": 2, "stream": stream}
            alone, kept = SampleRandom(7, **place), SampleRandom(7, **place, ahead=ahead)
            for shape, draw in itertools.product(shapes, DRAWS):
                expected, got = DRAWS[draw](alone, shape), DRAWS[draw](kept, shape)
                assert torch.equal(expected, got)
                got.zero_()  # what one draw is used for must not reach another
                assert torch.equal(alone.uniform((2,), shared=True), kept.uniform((2,), shared=True))
            assert alone.permutation(5) == kept.permutation(5)


def test_more_draws_than_are_kept_are_the_same_too() -> None:
    ahead = StepsAhead()
    for step in range(2):
        alone, kept = SampleRandom(7, step), SampleRandom(7, step, ahead=ahead)
        for _ in range(StepsAhead.DRAWS + 3):
            assert torch.equal(alone.normal((3,)), kept.normal((3,)))


def test_what_is_kept_of_coming_steps_is_where_it_is_asked_for() -> None:
    random = SampleRandom(7, device="meta", ahead=StepsAhead())
    assert random.normal((4, 3)).device.type == "meta"
    assert random.uniform((4, 3)).shape == (4, 3)
