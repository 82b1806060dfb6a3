"""Camera frames in a batch: which tensors they are, and how they become floats. The one place for both."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

_LARGEST = np.float32(255)

IMAGE_PREFIX = "observation.image"
"""How camera features are named, where a dataset does not describe its columns."""


def is_camera(key: str, named: Collection[str] | None = None) -> bool:
    """Tell a camera: one of `named`, or by its name where nobody knows which are cameras (None)."""
    return key.startswith(IMAGE_PREFIX) if named is None else key in named


def is_image(key: str, value: Any, named: Collection[str] | None = None) -> bool:
    """Tell the frames `(B, …, C, H, W)` of a camera."""
    return is_camera(key, named) and isinstance(value, Tensor) and value.ndim >= 4


def scale_images(batch: Mapping[str, Any], named: Collection[str] | None = None) -> dict[str, Any]:
    """Return the batch with its uint8 camera frames as float32 in [0, 1], on the device where they lie.

    Frames that are floats already stay as they are.

    Args:
        batch: feature → tensor.
        named: the features that hold frames; None if the dataset does not tell.
    """
    return {
        key: _as_floats(value) if is_image(key, value, named) and value.dtype == torch.uint8 else value
        for key, value in batch.items()
    }


def _as_floats(frames: Tensor) -> Tensor:
    if frames.device.type != "cpu":
        return frames.to(torch.float32).div_(255)
    # The same division in one pass, and in this thread: torch would wake others, which make batches of their
    # own.
    return torch.from_numpy(np.divide(frames.numpy(), _LARGEST))
