"""Sines and cosines for positions and for time."""

from __future__ import annotations

import torch
from torch import Tensor


def sinusoidal_positions(length: int, channels: int, *, like: Tensor) -> Tensor:
    """Return the position code of Vaswani et al. 2017, `(1, length, channels)`.

    Channel 2i is sin(p · 10000^(-2i / channels)), channel 2i + 1 the cosine of the same angle.

    Args:
        length: number of positions p, counted from 0.
        channels: even.
        like: gives device and type.
    """
    assert channels % 2 == 0, "position codes need an even number of channels"
    position = torch.arange(length, device=like.device, dtype=torch.float32)[:, None]
    exponent = torch.arange(0, channels, 2, device=like.device, dtype=torch.float32) / channels
    angle = position * torch.pow(10000.0, -exponent)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2).to(like.dtype)[None]


def geometric_frequencies(count: int, lowest: float, highest: float) -> Tensor:
    """Return `count` frequencies in radians per unit, in equal ratios from `lowest` to `highest`."""
    return torch.logspace(0.0, 1.0, count, base=highest / lowest) * lowest


def sine_cosine(value: Tensor, frequencies: Tensor) -> Tensor:
    """Return `[sin(v·f) | cos(v·f)]`, `(B,)` and `(F,)` → `(B, 2F)`, in float32 whatever came in."""
    angle = value.float()[:, None] * frequencies
    return torch.cat([angle.sin(), angle.cos()], dim=-1)
