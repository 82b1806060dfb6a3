"""One-cycle schedules, schedules in the earlier way, prolonged schedules, and optimizers without any."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from experiment_training.components.optimizer.adamw_cosine_decay import AdamWWarmupCosineBuilder
from experiment_training.components.optimizer.adamw_cosine_schedule import AdamWCosineScheduleBuilder
from experiment_training.components.optimizer.schedule_free_radam import RAdamScheduleFreeFactory


def weight() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.arange(1.0, 5.0))


def advance(parameter: torch.nn.Parameter, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    rates = []
    for _ in range(steps):
        parameter.grad = parameter.detach() * 0.5
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
    return rates


@pytest.mark.parametrize(
    "settings", [{}, {"anneal_strategy": "linear", "three_phase": True, "pct_start": 0.2}]
)
def test_a_one_cycle_is_that_of_torch_and_holds_its_last_rate(settings: dict[str, Any]) -> None:
    ours, theirs = weight(), weight()
    built = AdamWCosineScheduleBuilder(0.1, weight_decay=0.1, total_steps=20, **settings).build([ours])
    plain = torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.1)
    cycle = torch.optim.lr_scheduler.OneCycleLR(plain, 0.1, total_steps=20, **settings)
    expected = []
    for _ in range(20):
        theirs.grad = theirs.detach() * 0.5
        expected.append(plain.param_groups[0]["lr"])
        plain.step()
        if len(expected) < 20:
            cycle.step()
    assert advance(ours, built, 20) == expected
    torch.testing.assert_close(ours, theirs)
    assert advance(ours, built, 3) == [expected[-1]] * 3


def test_the_earlier_keys_mean_the_same_schedule() -> None:
    earlier = {
        "lr": 1e-4, "betas": (0.9, 0.995), "eps": 1e-10, "weight_decay": 1e-4, "max_lr": 2e-4,
        "total_steps": 100, "epochs": None, "steps_per_epoch": None, "pct_start": 0.05,
        "warmup_strategy": "linear",
        "div_factor": 1300, "final_div_factor": 200, "alpha": None, "exponent": 1.0, "last_epoch": -1,
    }  # fmt: skip
    now = {
        "peak_lr": 2e-4, "betas": (0.9, 0.995), "eps": 1e-10, "weight_decay": 1e-4, "total_steps": 100,
        "warmup_steps": 5, "start_lr": 2e-4 / 1300, "end_lr": 2e-4 / (1300 * 200),
    }  # fmt: skip
    rates = []
    for settings in (earlier, now):
        parameter = weight()
        rates.append(advance(parameter, AdamWWarmupCosineBuilder(**settings).build([parameter]), 100))
    assert rates[0] == rates[1]


def test_an_exponent_bends_the_cosine() -> None:
    parameter = weight()
    built = AdamWWarmupCosineBuilder(1.0, total_steps=11, exponent=2.0).build([parameter])
    assert advance(parameter, built, 6)[5] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "peak_lr is required"),
        ({"peak_lr": 1.0, "pct_start": 0.1}, "pct_start: only with max_lr"),
        ({"max_lr": 1.0, "warmup_steps": 3}, "warmup_steps: only without max_lr"),
        ({"max_lr": 1.0, "epochs": 3}, "epochs and steps_per_epoch go together"),
    ],
)
def test_two_ways_at_once_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdamWWarmupCosineBuilder(**settings)


Build = Callable[[int], Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]]


@pytest.mark.parametrize(
    "build",
    [
        lambda total: AdamWWarmupCosineBuilder(0.1, warmup_steps=2, total_steps=total).build,
        lambda total: AdamWCosineScheduleBuilder(0.1, total_steps=total).build,
    ],
)
def test_a_prolonged_schedule_ends_where_the_configuration_says(build: Build) -> None:
    first, second, whole = weight(), weight(), weight()
    short, long, alone = build(10)([first]), build(30)([second]), build(30)([whole])
    advance(first, short, 10)
    long.load_state_dict(copy.deepcopy(short.state_dict()))
    assert advance(second, long, 20) == advance(whole, alone, 30)[10:]


def test_a_resumed_schedule_is_the_same_to_the_last_bit() -> None:
    for builder in (AdamWWarmupCosineBuilder, AdamWCosineScheduleBuilder):
        one, other = weight(), weight()
        whole, resumed = (builder(0.1, total_steps=20).build([p]) for p in (one, other))
        advance(one, whole, 7)
        advance(other, resumed, 7)
        fresh = builder(0.1, total_steps=20).build([other])
        fresh.load_state_dict(copy.deepcopy(resumed.state_dict()))
        assert advance(one, whole, 7) == advance(other, fresh, 7)
        assert torch.equal(one, other)
        assert whole.state_dict()["scheduler"] == fresh.state_dict()["scheduler"]


def test_schedule_free_radam_is_that_of_the_library() -> None:
    schedulefree = pytest.importorskip("schedulefree")
    ours, theirs = weight(), weight()
    built = RAdamScheduleFreeFactory(lr=0.1, betas=(0.9, 0.95), silent_sgd_phase=False).build([ours])
    plain = schedulefree.RAdamScheduleFree([theirs], lr=0.1, betas=(0.9, 0.95), silent_sgd_phase=False)
    for parameter, optimizer in ((ours, built), (theirs, plain)):
        optimizer.train()
        advance(parameter, optimizer, 6)
    assert torch.equal(ours, theirs)


def test_without_its_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "schedulefree", None)
    with pytest.raises(ValueError, match=r"pip install 'trainer-il\[schedulefree\]'"):
        RAdamScheduleFreeFactory(lr=0.1).build([weight()])
