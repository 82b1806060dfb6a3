"""Sines and cosines for positions and for time."""

from __future__ import annotations

import math

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


def sinusoidal_positions_2d(height: int, width: int, channels: int, *, like: Tensor) -> Tensor:
    """Return the position code of DETR (Carion et al. 2020), `(1, height · width, channels)`, by rows.

    The first half of the channels is for the row, the second for the column. Of each half channel 2i is
    sin(p · 10000^(-4i / channels)), channel 2i + 1 the cosine, with p from just above 0 to 2π over the
    picture.

    Args:
        height: rows.
        width: columns.
        channels: a multiple of 4.
        like: gives device and type.
    """
    assert channels % 4 == 0, "position codes in a picture need a multiple of four channels"
    half = channels // 2
    exponent = torch.arange(0, half, 2, device=like.device, dtype=torch.float32) / half

    def along(count: int) -> Tensor:
        places = torch.arange(1, count + 1, device=like.device, dtype=torch.float32) * (2 * math.pi / count)
        angle = places[:, None] * torch.pow(10000.0, -exponent)
        return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)

    rows = along(height)[:, None].expand(-1, width, -1)
    columns = along(width)[None].expand(height, -1, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1).to(like.dtype)[None]


def geometric_frequencies(count: int, lowest: float, highest: float, *, like: Tensor) -> Tensor:
    """Return `count` frequencies in radians per unit, in equal ratios from `lowest` to `highest`.

    They are float32 on the device of `like`.
    """
    base = highest / lowest
    return lowest * torch.logspace(0.0, 1.0, count, base=base, device=like.device, dtype=torch.float32)


def sine_cosine(value: Tensor, frequencies: Tensor) -> Tensor:
    """Return `[sin(v·f) | cos(v·f)]`, `(B,)` and `(F,)` → `(B, 2F)`, in float32 whatever came in."""
    angle = value.float()[:, None] * frequencies
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def transformer_time_embedding(time: Tensor, channels: int, max_period: float = 10000.0) -> Tensor:
    """Return `[sin(t·f) | cos(t·f)]` with f from 1 down to `1 / max_period`, `(B,)` → `(B, channels)`.

    The embedding of diffusion models, made for steps that count to 1000: for t in [0, 1] most channels
    hardly move. Old checkpoints need it as it is; whoever is free gives it 1000 · t.
    """
    if channels < 4 or channels % 2:
        raise ValueError(f"a time embedding needs an even number of at least 4 channels, got {channels}")
    half = channels // 2
    exponent = torch.arange(half, device=time.device, dtype=torch.float32) / (half - 1)
    return sine_cosine(time, torch.pow(max_period, -exponent))
