"""A few of the kills of `benchmarks/kill_matrix.py`: what is taken up comes to what was never stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
from killed_runs import Case, Ground, Kill, differences, unequal

CASES = {
    "in the middle of things": Case(0, "one", (Kill("progress", 20, 0.02),), workers=(0, 1)),
    "a folder has its name, the pointer does not know": Case(1, "one", (Kill("renamed", 3),)),
    "while a folder is replaced": Case(2, "one", (Kill("epoch_renamed", 1), Kill("replacing", 1))),
    "while an old checkpoint is removed": Case(3, "one", (Kill("removing", 7),)),
}


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return Ground.prepare(tmp_path_factory.mktemp("killed"), epochs=3, width=32)


@pytest.fixture(scope="module")
def whole(ground: Ground) -> Path:
    return ground.whole("one", "whole")


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_killed_run_comes_to_what_was_never_stopped(ground: Ground, whole: Path, name: str) -> None:
    try:
        run, met = ground.killed(CASES[name])
    finally:
        ground.stop_everything()
    assert not any(kill["had_ended"] for kill in met)
    assert differences(whole, run, wandb=False) == []


@pytest.mark.slow
def test_two_ranks_that_are_killed_go_on_exactly(ground: Ground) -> None:
    reference = ground.whole("two", "whole_two")
    try:
        run, met = ground.killed(Case(4, "two", (Kill("progress", 12), Kill("operation", 40))))
    finally:
        ground.stop_everything()
    assert [kill["had_ended"] for kill in met] == [False, False]
    assert differences(reference, run, wandb=False) == []


def test_differences_are_seen() -> None:
    import torch

    a = {"w": torch.tensor([0.0, 1.0]), "step": 3, "groups": [{"lr": 0.1}]}
    b = {"w": torch.tensor([-0.0, 1.0]), "step": 3, "groups": [{"lr": 0.2}]}
    assert list(unequal(a, b)) == [".w", ".groups[0].lr"]
    assert list(unequal(a, {**a, "step": 3.0})) == [".step"]
    assert list(unequal(a, a)) == []
