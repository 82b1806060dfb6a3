"""What every vision block does to an image before its network sees it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

VALUE_RANGES = ("auto", "unit", "byte")
RESIZE_METHODS = ("auto", "forced")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise `ValueError` for a value that is none of the choices."""
    if value not in choices:
        raise ValueError(f"'{name}' must be one of {', '.join(choices)}, got '{value}'")


def as_batch(image: Tensor) -> Tensor:
    """`(3, H, W)` → `(1, 3, H, W)`; four dimensions stay; `ValueError` for anything else."""
    if image.ndim == 3:
        image = image[None]
    if image.ndim != 4 or image.shape[1] != 3:
        raise ValueError(f"an image must be (B, 3, H, W) or (3, H, W), got {tuple(image.shape)}")
    return image


def to_unit_range(image: Tensor, value_range: str) -> Tensor:
    """Return floats in [0, 1].

    Args:
        image: any shape.
        value_range: `auto` takes integers as 0 to 255 and floats as 0 to 1: the type decides, never the
            content, for looking at the content would wait for the device and misread a dark frame. `unit`
            and `byte` say it.
    """
    if value_range == "byte" or (value_range == "auto" and not image.is_floating_point()):
        image = image.to(torch.get_default_dtype()) if not image.is_floating_point() else image
        return image / 255.0
    return image if image.is_floating_point() else image.to(torch.get_default_dtype())


def nearest_multiple(size: int, step: int) -> int:
    """Return the positive multiple of `step` next to `size`."""
    return max(1, (size + step // 2) // step) * step


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Resize bilinearly unless the image has that size."""
    if image.shape[-2:] == (height, width):
        return image
    return F.interpolate(image, size=(height, width), mode="bilinear", align_corners=False, antialias=False)


def resize_for_patches(image: Tensor, method: str, step: int, forced_size: Sequence[int]) -> Tensor:
    """Resize to the nearest multiple of `step` (`auto`) or to `forced_size` (`forced`)."""
    if method == "forced":
        return resize(image, forced_size[0], forced_size[1])
    height, width = (nearest_multiple(size, step) for size in image.shape[-2:])
    return resize(image, height, width)


def standardize(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Subtract and divide by channel."""
    return torch.stack(
        [(channel - m) / s for channel, m, s in zip(image.unbind(1), mean, std, strict=True)], dim=1
    )


def check_size(name: str, size: Sequence[int], step: int) -> None:
    """Raise `ValueError` unless `size` is two positive multiples of `step`."""
    if len(size) != 2 or any(side < step or side % step for side in size):
        raise ValueError(f"'{name}' must be [height, width] in multiples of {step}, got {list(size)}")
