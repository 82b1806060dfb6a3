"""The variance beside the estimator's errors is that of numpy."""

from __future__ import annotations

import numpy as np
import torch
from estimator_errors import Spread


def test_the_variance_is_that_of_every_number_over_what_counts() -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(30, 4, 2)) * [1.0, 5.0] + 7.0
    counted = rng.random((30, 4, 1)) < 0.7
    spread = Spread()
    for part in (slice(0, 11), slice(11, 30)):
        spread.add(torch.from_numpy(samples[part]), torch.from_numpy(counted[part]))
    kept = np.ma.array(samples, mask=~np.broadcast_to(counted, samples.shape))
    around = (kept - kept.mean(0)) ** 2
    np.testing.assert_allclose(spread.variance(), around.sum() / around.count())
