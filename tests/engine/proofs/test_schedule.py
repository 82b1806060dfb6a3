"""The walk through a schedule gives the learning rates that training has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from experiment_training.components.optimizer.adamw_cosine_decay import warmup_cosine
from trainer.config.component import ComponentSpec
from trainer.engine.proofs.schedule import learning_rates, schedule_claim
from trainer.registry import OPTIMIZER_BUILDER_REGISTRY, load_plugins
from trainer.registry.shipped import shipped_plugins

SHIPPED: dict[str, list[dict[str, Any]]] = {
    "adamw_warmup_cosine_decay": [
        {"peak_lr": 1e-3, "warmup_steps": 2},  # from 0 to 0
        {"peak_lr": 1e-3, "warmup_steps": 0, "exponent": 2.0},
        {"peak_lr": 1e-3, "warmup_steps": 1, "start_lr": 1e-5, "end_lr": 1e-5},
        {"max_lr": 1e-3, "alpha": 0.0},
    ],
    "adamw_cosine_schedule": [
        {"max_lr": 1e-3},
        {"max_lr": 1e-3, "three_phase": True, "final_div_factor": 1e9},
    ],
    "schedule_free_radam": [{}],
}


PLUGINS = shipped_plugins()[OPTIMIZER_BUILDER_REGISTRY.name]


def test_no_shipped_optimizer_is_forgotten() -> None:
    assert set(PLUGINS) == set(SHIPPED)


@pytest.mark.parametrize(
    ("key", "params"), [(key, params) for key, several in SHIPPED.items() for params in several]
)
@pytest.mark.parametrize("total_steps", [5, 40, 1000])
def test_the_claim_holds_for_what_shipped_optimizers_do(
    key: str, params: dict[str, Any], total_steps: int
) -> None:
    load_plugins([PLUGINS[key]])
    rates = learning_rates(ComponentSpec(type=key, params=params), total_steps)
    claim = schedule_claim(("train", "optimizer"), ["head"], rates, total_steps)
    assert claim.verdict == "holds", claim.faults
    above = np.count_nonzero(rates[:, 0] > 1e-6 * rates[:, 0].max())
    assert f"above 0 in {above:,} of {total_steps:,} updates" in claim.measured
    # What is claimed is what is shown: a rate that ends at 0 does not contradict it.
    assert claim.text.endswith("is above 0 but for a tenth of the run at either end, and its warm-up ends")


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ([0.0, 1.0, *[1.0] * 16, 0.0, 0.0, 0.0], "is 0 from update 19 of 21 on"),
        ([0.0] * 4 + [1.0] * 17, "is 0 until update 5 of 21"),
        ([i / 20 for i in range(21)], "still rises at the last of 21 updates"),
        ([0.0] * 21, "is 0 in all 21 updates"),
        ([1.0] * 20 + [-1.0], "is -1.0 at update 21"),
    ],
)
def test_the_claim_fails_for_what_it_says(rates: list[float], message: str) -> None:
    claim = schedule_claim(("train", "optimizer"), ["head"], np.array(rates)[:, None], 21)
    assert message in claim.faults[0].message


def test_the_rates_of_all_updates_are_those_of_the_formula() -> None:
    params = {"peak_lr": 1e-3, "warmup_steps": 10, "end_lr": 1e-5}
    rates = learning_rates(ComponentSpec(type="adamw_warmup_cosine_decay", params=params), 40)
    wanted = [warmup_cosine(s, peak=1e-3, start=0.0, end=1e-5, warmup=10, total=40) for s in range(40)]
    assert rates[:, 0].tolist() == pytest.approx(wanted)
