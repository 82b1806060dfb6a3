"""The optimizer with its schedule inside."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from experiment_training.components.optimizer.adamw_cosine_decay import AdamWWarmupCosineBuilder


def rates(steps: int, **settings: float) -> list[float]:
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = AdamWWarmupCosineBuilder(**settings).build([weight])  # type: ignore[arg-type]
    found = []
    for _ in range(steps):
        weight.grad = torch.ones(1)
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
    return found


def test_the_rates_are_those_of_the_formula() -> None:
    found = rates(14, peak_lr=1.0, total_steps=12, warmup_steps=4, start_lr=0.1, end_lr=0.2)
    warm = [0.1 + 0.9 * k / 3 for k in range(4)]
    cosine = [0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * k / 7)) for k in range(8)]
    assert found == pytest.approx([*warm, *cosine, 0.2, 0.2])


def test_updates_are_those_of_torch_adamw() -> None:
    torch.manual_seed(0)
    a, b = (torch.nn.Parameter(torch.arange(4.0)) for _ in range(2))
    ours = AdamWWarmupCosineBuilder(
        0.1, weight_decay=0.3, total_steps=10, warmup_steps=1, start_lr=0.1
    ).build([a])
    theirs = torch.optim.AdamW([b], lr=0.1, weight_decay=0.3)
    for step in range(5):
        theirs.param_groups[0]["lr"] = ours.param_groups[0]["lr"]
        gradient = torch.randn(4)
        a.grad, b.grad = gradient.clone(), gradient.clone()
        ours.step()
        theirs.step()
        torch.testing.assert_close(a, b), step


def test_state_carries_the_schedule_on() -> None:
    def build() -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
        weight = torch.nn.Parameter(torch.ones(3))
        return weight, AdamWWarmupCosineBuilder(0.1, total_steps=20, warmup_steps=3).build([weight])

    def advance(weight: torch.nn.Parameter, optimizer: torch.optim.Optimizer, steps: int) -> None:
        for _ in range(steps):
            weight.grad = weight.detach() * 0.5
            optimizer.step()

    weight, optimizer = build()
    advance(weight, optimizer, 5)
    other, resumed = build()
    other.data.copy_(weight.data)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    advance(weight, optimizer, 5)
    advance(other, resumed, 5)
    assert torch.equal(weight, other)
    assert optimizer.param_groups[0]["lr"] == resumed.param_groups[0]["lr"]


def test_the_state_of_a_plain_adamw_is_loaded_onto_the_device() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    plain = torch.optim.AdamW([weight])
    weight.grad = torch.ones(3)
    plain.step()
    elsewhere = torch.nn.Parameter(torch.ones(3, device="meta"))
    ours = AdamWWarmupCosineBuilder(0.1, total_steps=20, warmup_steps=3).build([elsewhere])
    ours.load_state_dict(plain.state_dict())
    assert ours.state[elsewhere]["step"].device == elsewhere.device
    assert ours.param_groups[0]["fused"]


def test_groups_keep_their_ratio_to_the_first() -> None:
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))]},
              {"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.01}]  # fmt: skip
    optimizer = AdamWWarmupCosineBuilder(
        0.1, total_steps=10, warmup_steps=2, start_lr=0.02, end_lr=0.01
    ).build(groups)
    for _ in range(11):
        first, second = (g["lr"] for g in optimizer.param_groups)
        assert second == pytest.approx(first / 10)
        for group in optimizer.param_groups:
            group["params"][0].grad = torch.ones(1)
        optimizer.step()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peak_lr": -1}, "peak_lr must be greater than 0"),
        ({"peak_lr": 1, "end_lr": 2}, "end_lr must lie between 0 and peak_lr"),
        ({"peak_lr": 1, "eps": 0}, "eps must be greater than 0"),
        ({"peak_lr": 1, "weight_decay": -1}, "weight_decay must not be negative"),
    ],
)
def test_numbers_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdamWWarmupCosineBuilder(**settings)  # type: ignore[arg-type]


def test_a_warm_up_as_long_as_the_run_is_refused() -> None:
    with pytest.raises(ValueError, match="warmup_steps 10 must be fewer than 10 updates"):
        AdamWWarmupCosineBuilder(1.0, warmup_steps=10).build(
            [torch.nn.Parameter(torch.ones(1))], total_steps=10
        )
