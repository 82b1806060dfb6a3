"""The walk through a schedule gives the learning rates that training has."""

from __future__ import annotations

import pytest

from experiment_training.components.optimizer.adamw_cosine_decay import warmup_cosine
from trainer.config.component import ComponentSpec
from trainer.engine.proofs.schedule import learning_rates


def test_the_rates_of_all_updates_are_those_of_the_formula() -> None:
    params = {"peak_lr": 1e-3, "warmup_steps": 10, "end_lr": 1e-5}
    rates = learning_rates(ComponentSpec(type="adamw_warmup_cosine_decay", params=params), 40)
    wanted = [warmup_cosine(s, peak=1e-3, start=0.0, end=1e-5, warmup=10, total=40) for s in range(40)]
    assert rates[:, 0].tolist() == pytest.approx(wanted)
