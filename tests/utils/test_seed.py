"""Seeding, saving and restoring the global generators."""

from __future__ import annotations

import io
import random

import numpy as np
import torch

from trainer.utils.seed import random_state, restore_random_state, set_global_seed


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_a_seed_fixes_all_generators() -> None:
    set_global_seed(4)
    first = draw()
    set_global_seed(4)
    assert draw() == first


def test_a_saved_state_goes_on_where_it_was_also_through_a_safe_file() -> None:
    set_global_seed(4)
    np.random.standard_normal()  # leaves numpy with a cached value
    file = io.BytesIO()
    torch.save(random_state(), file)
    expected = draw(), float(np.random.standard_normal())
    set_global_seed(99)
    file.seek(0)
    restore_random_state(torch.load(file, weights_only=True))
    assert (draw(), float(np.random.standard_normal())) == expected
