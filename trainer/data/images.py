"""Camera frames in a batch: which tensors they are, and how they become floats. The one place for both."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

_LARGEST = np.float32(255)

IMAGE_PREFIX = "observation.image"
"""Camera features are named `observation.image` or `observation.images.<camera>`."""


def is_image(key: str, value: Any, named: Collection[str] = ()) -> bool:
    """Tell camera frames `(B, …, C, H, W)` by their name, or because a dataset says so (`named`)."""
    return (key.startswith(IMAGE_PREFIX) or key in named) and isinstance(value, Tensor) and value.ndim >= 4


def scale_images(batch: Mapping[str, Any], named: Collection[str] = ()) -> dict[str, Any]:
    """Return the batch with its uint8 camera frames as float32 in [0, 1], on the device where they lie.

    Frames that are floats already stay as they are.

    Args:
        batch: feature → tensor.
        named: features that hold frames, whatever their name.
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
