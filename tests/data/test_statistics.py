from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from trainer.data.statistics import QUANTILES, column_statistics

numbers = arrays(
    np.float32, array_shapes(min_dims=1, max_dims=3, max_side=8), elements=st.floats(-1e6, 1e6, width=32)
)


@settings(deadline=None)
@given(numbers)
def test_like_numpy_in_float64(values):
    exact = column_statistics(values)
    wide = values.astype(np.float64)
    scale = np.abs(wide).max() + 1e-30
    for name, function in (("min", np.min), ("max", np.max), ("mean", np.mean), ("std", np.std)):
        assert exact[name].shape == values.shape[1:]
        np.testing.assert_allclose(exact[name], function(wide, axis=0), rtol=1e-9, atol=1e-9 * scale)
    for name, level in QUANTILES.items():
        np.testing.assert_allclose(
            exact[name], np.quantile(wide, level, axis=0), rtol=1e-9, atol=1e-9 * scale
        )
    assert exact["count"].tolist() == [len(values)]


def test_a_small_spread_around_a_large_mean():
    values = (1e6 + np.random.default_rng(0).normal(size=(100_000, 1))).astype(np.float32)
    assert column_statistics(values)["std"][0] == pytest.approx(values.astype(np.float64).std(), rel=1e-9)


def test_a_constant_has_no_spread_at_all():
    stats = column_statistics(np.full((1001, 1), 0.1, np.float32))
    assert stats["std"][0] == 0
    assert stats["mean"][0] == np.float32(0.1)


def test_integers_and_flags():
    large = np.array([[2**60 + 1], [2**60 + 3]])
    assert column_statistics(large)["max"].tolist() == [2**60 + 3]
    assert column_statistics(np.array([[True], [False], [True], [True]]))["mean"].tolist() == [0.75]
