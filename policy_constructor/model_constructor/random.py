"""Where blocks that need random numbers get them: from whoever runs the model, otherwise from torch.

A training loop may want numbers that belong to samples, so that neither the number of processes nor a restart
changes them. It gives a source for as long as the model runs::

    with random_source(numbers):
        output = model(x)

Blocks draw with `randn_like`, `uniform` and `shared_uniform`. Without a source these are torch's generators.
Dropout always draws from torch's, which differ from process to process.

Under `torch.compile` a draw from a source stands between two graphs; without one graphs stay whole.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["RandomSource", "current_source", "randn_like", "random_source", "shared_uniform", "uniform"]


class RandomSource(Protocol):
    """Gives random numbers, on a device of its choice."""

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Return standard normal numbers of shape `(B, …)`, whose first dimension is the batch."""
        ...

    def uniform(self, shape: tuple[int, ...], *, shared: bool = False) -> Tensor:
        """Return numbers uniform in [0, 1); `shared` ones have no batch, and all processes see the same."""
        ...


_source: ContextVar[RandomSource | None] = ContextVar("random_source", default=None)

# How many `random_source` are open in all threads. A compiled graph can look at an integer only.
_open = 0


@contextlib.contextmanager
def random_source(source: RandomSource) -> Iterator[None]:
    """Let the blocks that this thread runs draw from `source`; the innermost one counts."""
    global _open
    token = _source.set(source)
    _open += 1
    try:
        yield
    finally:
        _open -= 1
        _source.reset(token)


def current_source() -> RandomSource | None:
    """Return the source that blocks draw from, None for torch's generators."""
    return _source.get()


def randn_like(input: Tensor) -> Tensor:
    """Return standard normal numbers of the shape, type and device of `input` `(B, …)`."""
    return _normal(input) if _open else torch.randn_like(input)


def uniform(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return float32 numbers uniform in [0, 1) of shape `(B, …)`, which belong to the samples."""
    return _uniform(shape, device, False) if _open else torch.rand(shape, device=device)


def shared_uniform(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return float32 numbers uniform in [0, 1) that belong to no sample.

    With a source all processes see the same; without one each draws its own.
    """
    return _uniform(shape, device, True) if _open else torch.rand(shape, device=device)


@torch.compiler.disable
def _normal(input: Tensor) -> Tensor:
    source = current_source()
    if source is None:
        return torch.randn_like(input)
    return source.normal(tuple(input.shape)).to(input.device, input.dtype)


@torch.compiler.disable
def _uniform(shape: tuple[int, ...], device: torch.device, shared: bool) -> Tensor:
    source = current_source()
    if source is None:
        return torch.rand(shape, device=device)
    return source.uniform(shape, shared=shared).to(device, torch.float32)
