"""The samples of any torch Dataset as one batch."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.utils.data import Dataset, default_collate


def fetch_batch(dataset: Dataset[Any], indices: np.ndarray) -> dict[str, Any]:
    """Return the samples `indices` `(B,)` as one batch.

    A dataset's `__getitems__` is used where it has one: what it returns is the batch if it is a dict, else a
    list of samples, torch's own convention. Samples are collated by torch's `default_collate`.
    """
    whole = getattr(dataset, "__getitems__", None)
    if whole is None:
        return default_collate([dataset[i] for i in indices.tolist()])
    fetched = whole(indices.tolist())
    return fetched if isinstance(fetched, dict) else default_collate(fetched)
