"""Samples that were read together: one batch for those who know, a list of samples for torch's DataLoader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import default_collate
from torch.utils.data._utils.collate import default_collate_fn_map


class Samples(dict[str, Any]):
    """A batch: feature → tensor `(B, …)` or list of B; `samples[i]` is its i-th sample.

    torch's DataLoader asks `__getitems__` for samples and hands them to `default_collate`, which gets this
    and returns it as the plain dict that it would make of the samples. A collate function of one's own gets
    the batch too.
    """

    def __missing__(self, key: Any) -> dict[str, Any]:
        if not isinstance(key, int | np.integer):
            raise KeyError(key)
        return _Sample({name: value[key] for name, value in self.items()})


class _Sample(dict[str, Any]):
    """One sample of a batch, by which `default_collate` knows that there is nothing left to do."""


def _collated(samples: Samples | Sequence[_Sample], *, collate_fn_map: Any = None) -> dict[str, Any]:
    if isinstance(samples, Samples):
        return dict(samples)
    whole: dict[str, Any] = default_collate([dict(sample) for sample in samples])
    return whole


default_collate_fn_map[_Sample] = _collated
