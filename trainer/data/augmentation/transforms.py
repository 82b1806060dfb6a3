"""Changes of batches of pictures, each sample by its own amount.

Pictures are `(B, F, C, H, W)`: B samples, F frames of a history, which are changed alike. Amounts are `(B,)`.
Colours are float32 in [0, 1]; the formulas are those of torchvision and of PIL. They are written here and not
taken from a library because those draw their amounts themselves, from torch's global generator, and an
amount per sample is what makes a batch independent of ranks and restarts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
"""Share of red, green and blue in brightness as the eye sees it, ITU-R BT.601."""


def scale_brightness(x: Tensor, factor: Tensor) -> Tensor:
    """Multiply colours; 0 is black."""
    return (x * _per_sample(factor)).clamp_(0.0, 1.0)


def scale_contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Move colours away from the mean brightness of their own frame, or towards it; 0 is plain grey."""
    return _blend(x, _grey(x).mean(dim=(-3, -2, -1), keepdim=True), factor)


def scale_saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Move colours away from their own brightness, or towards it; 0 is a grey picture."""
    return _blend(x, _grey(x), factor)


def shift_hue(x: Tensor, turn: Tensor) -> Tensor:
    """Turn colours on the circle of the HSV model; 1 is a whole turn.

    With V the largest channel, C = V − the smallest and h the hue in sixths of a turn, channel n = 5, 3, 1
    (red, green, blue) is V − C·max(0, min(k, 4 − k, 1)) with k = (n + h) mod 6.
    """
    red, green, blue = x.unbind(dim=2)
    value = x.amax(dim=2)
    chroma = value - x.amin(dim=2)
    divisor = torch.where(chroma == 0, 1.0, chroma)  # of a grey, which has no hue: any will do
    hue = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, (blue - red) / divisor + 2.0, (red - green) / divisor + 4.0),
    )
    hue = hue + 6.0 * turn.view(-1, 1, 1, 1)
    channels = []
    for n in (5.0, 3.0, 1.0):
        k = (hue + n).remainder_(6.0)
        channels.append(value - chroma * torch.minimum(k, 4.0 - k).clamp_(0.0, 1.0))
    return torch.stack(channels, dim=2).clamp_(0.0, 1.0)


def blur(x: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """Blur by a Gaussian of `kernel_size` × `kernel_size` pixels, along one axis and then the other.

    Beyond its edges a picture is mirrored, the edge itself not repeated.

    Raises:
        ValueError: the picture is smaller than half the kernel.
    """
    half = kernel_size // 2
    height, width = x.shape[-2:]
    if min(height, width) <= half:
        raise ValueError(f"a picture of {height}×{width} pixels is too small for a blur of {kernel_size}")
    offsets = torch.arange(half + 1, dtype=torch.float32, device=x.device)
    weights = torch.exp(-0.5 * (offsets / sigma[:, None]).square())
    weights = weights / (2.0 * weights.sum(dim=1, keepdim=True) - weights[:, :1])
    flat = x.flatten(1, 2)
    for axis in (3, 2):
        length = flat.shape[axis]
        padded = F.pad(flat, (half, half, 0, 0) if axis == 3 else (0, 0, half, half), mode="reflect")
        mixed = padded.narrow(axis, half, length) * weights[:, 0].view(-1, 1, 1, 1)
        for i in range(1, half + 1):
            pair = padded.narrow(axis, half - i, length) + padded.narrow(axis, half + i, length)
            mixed.addcmul_(pair, weights[:, i].view(-1, 1, 1, 1))
        flat = mixed
    return flat.view_as(x)


def shift(x: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Move pictures of any dtype by whole pixels; their edges are repeated into what was beyond them.

    The same as repeating the edges all around and cropping the old size from there.

    Args:
        x: pictures.
        down: pixels, int64 `(B,)`.
        right: pixels, int64 `(B,)`.
    """
    height, width = x.shape[-2:]
    rows = torch.arange(height, device=x.device) - down[:, None]
    columns = torch.arange(width, device=x.device) - right[:, None]
    places = rows.clamp_(0, height - 1)[:, :, None] * width + columns.clamp_(0, width - 1)[:, None, :]
    flat = x.flatten(3)
    return flat.gather(3, places.flatten(1)[:, None, None].expand_as(flat)).view_as(x)


def _per_sample(amount: Tensor) -> Tensor:
    return amount.view(-1, 1, 1, 1, 1)


def _grey(x: Tensor) -> Tensor:
    red, green, blue = x.unbind(dim=2)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue).unsqueeze(2)


def _blend(x: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(other, x, _per_sample(factor)).clamp_(0.0, 1.0)
