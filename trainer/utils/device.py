"""Tensors in nested containers: their floating-point type and their device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainer.utils.tree import tree_map


def cast_dtype(data: Any, dtype: torch.dtype) -> Any:
    """Return `data` with every floating-point tensor as `dtype`; whatever else is in it stays as it is."""

    def cast(value: Any) -> Any:
        return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

    return tree_map(cast, data, is_leaf=_is_texts)


def move_to_device(data: Any, device: torch.device | str) -> Any:
    """Return `data` with every tensor on `device`.

    Copies from pinned memory are under way when this returns; work on the device waits for them by itself.
    """

    def move(value: Any) -> Any:
        return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value

    return tree_map(move, data, is_leaf=_is_texts)


def _is_texts(value: Any) -> bool:
    """Tell a list of texts, such as the tasks of a batch, which need not be walked one by one."""
    return isinstance(value, list) and len(value) > 0 and isinstance(value[0], str)
