"""Random numbers that belong to samples, so that neither ranks nor restarts change them.

A number is a pure function of where it stands: of the seed, the step, the stream, the row in the global
batch, the call and the place within the row. So a rank makes its own rows only, on its own device, and a draw
costs the same among any number of ranks.

The generator is SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators"). Its
n-th output is a hash of `start + n · γ`, so that all of them can be made at once. A draw starts at BLAKE2b
hashes of (seed, step, stream) and of the call's number; its row r has the outputs that follow number r · γ.
As γ is 2⁶⁴ over the golden ratio, rows lie far apart: each of 2²⁰ has 2⁴³ outputs before it meets another's.
Numbers are int64 and wrap around, as torch's do on every device.

Uniform numbers are 24 bits of a half of an output, and the same on every device. Normal numbers are Box and
Muller's of two halves: their logarithm and cosine may differ in the last digit from device to device, never
from rank to rank. They reach 6.66 in absolute value. Dropout draws from torch's generators, not from here.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

POLICY, AUGMENTATION = 0, 1

Numbers = Any
"""An array for a CPU, else a tensor: numpy needs a third of torch's time for as few as a chunk has."""


class Random(Protocol):
    """Random numbers whose first dimension is the batch.

    With `shared` a draw has no batch: its shape is any, and all rows and ranks see the same numbers.
    """

    def normal(self, shape: tuple[int, ...], *, shared: bool = False) -> Tensor:
        """Return standard normal numbers of shape `(B, …)`, float32."""
        ...

    def uniform(self, shape: tuple[int, ...], *, shared: bool = False) -> Tensor:
        """Return numbers uniform in [0, 1) of shape `(B, …)`, float32."""
        ...

    def bernoulli(self, p: float, shape: tuple[int, ...], *, shared: bool = False) -> Tensor:
        """Return bools of shape `(B, …)`, each true with probability `p`."""
        ...

    def permutation(self, n: int) -> list[int]:
        """Return the numbers 0 … n − 1 in an order that all rows and ranks share; it is on the host."""
        ...


class _Draws(ABC):
    """Draws of rows of which each starts somewhere in the generator; the classes below say where.

    Args:
        device: where the numbers are made.
        shared_start: where the numbers start that all rows share.

    Attributes:
        calls: number of draws so far.
    """

    def __init__(self, device: torch.device | str, shared_start: int) -> None:
        self.device = torch.device(device)
        self._on = None if self.device.type == "cpu" else self.device
        self._shared_start = shared_start
        self.calls = 0

    @abstractmethod
    def _row_starts(self, rows: int) -> Numbers:
        """Return where the numbers of `rows` rows start, `(K,)`; each start is that of `rows / K` rows."""

    def normal(self, shape: tuple[int, ...], *, shared: bool = False) -> Tensor:
        """Return standard normal numbers of shape `(B, …)`, float32; see `Random` about `shared`.

        Raises:
            ValueError: the shape has no batch.
        """
        starts, numbers = self._begin(shape, shared)
        return _in_pieces(normal_numbers, starts, numbers).reshape(shape)

    def uniform(self, shape: tuple[int, ...], *, shared: bool = False) -> Tensor:
        """Return numbers uniform in [0, 1) of shape `(B, …)`, float32; see `Random` about `shared`.

        Raises:
            ValueError: the shape has no batch.
        """
        starts, numbers = self._begin(shape, shared)
        return _in_pieces(uniform_numbers, starts, numbers).reshape(shape)

    def bernoulli(self, p: float, shape: tuple[int, ...], *, shared: bool = False) -> Tensor:
        """Return bools of shape `(B, …)`, each true with probability `p`; see `Random` about `shared`.

        Raises:
            ValueError: `p` is not between 0 and 1, or the shape has no batch.
        """
        if not 0 <= p <= 1:
            raise ValueError(f"the probability is {p}, but it must be between 0 and 1")
        return self.uniform(shape, shared=shared) < p

    def permutation(self, n: int) -> list[int]:
        """Return the numbers 0 … n − 1 in an order that all rows and ranks share; it is on the host."""
        start = np.array([_signed(self._shared_start + self._next_call())])
        # A generator's outputs are all different, so there are no ties.
        order: list[int] = splitmix64(start, n)[0].argsort().tolist()
        return order

    def _begin(self, shape: tuple[int, ...], shared: bool) -> tuple[Numbers, int]:
        """Return where the rows of the next draw begin, `(K,)`, and how many numbers each of them has."""
        call = self._next_call()
        if shared:
            return _count(1, self._on) + _signed(self._shared_start + call), math.prod(shape)
        if not shape:
            raise ValueError("random numbers of shape () have no batch; ask for (B, …), or for shared ones")
        starts = self._row_starts(shape[0])
        return starts + call, math.prod(shape) // max(len(starts), 1)

    def _next_call(self) -> int:
        self.calls += 1
        return _hash("call", self.calls)


class SampleRandom(_Draws):
    """Draws for one global batch, of which a rank takes its rows.

    The numbers are a pure function of `(seed, step, stream)` and of the row in the global batch: one rank
    with a batch of 2B and two ranks with B see the same noise for the same sample, and a resumed run sees
    what the uninterrupted one would have seen. Every rank must make the same calls in the same order.

    Args:
        seed: the seed of the run.
        step: the iteration, counted over the whole run.
        rank: this rank's place in the global batch.
        world_size: number of ranks, all with equal batches.
        device: where the numbers are made.
        stream: numbers of different streams have nothing to do with each other, so that who draws more from
            one leaves the others as they are: `POLICY` or `AUGMENTATION`.

    Raises:
        ValueError: there is no such rank.
    """

    def __init__(
        self,
        seed: int,
        step: int = 0,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
        *,
        stream: int = POLICY,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"there is no rank {rank} among {world_size}")
        self.rank = rank
        self.world_size = world_size
        self._start = _hash("batch", seed, step, stream)
        # What is shared is a row too, the one before the first.
        super().__init__(device, _signed(self._start - _ROW))

    def _row_starts(self, rows: int) -> Numbers:
        return (_count(rows, self._on) + self.rank * rows) * _ROW + self._start


class RowRandom(_Draws):
    """Draws in which every row has its own seed: a robot's numbers do not depend on who rolls out beside it.

    A row's numbers are a pure function of its seed and of how many draws were made before. What rows share
    depends on the number of draws alone.

    Args:
        seeds: one seed per row.
        device: where the numbers are made.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        super().__init__(device, _hash("shared"))
        self._hashes = [_hash("row", seed) for seed in seeds]
        self._starts = self._on_device()

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only."""
        self._hashes = [self._hashes[row] for row in rows]
        self._starts = self._on_device()

    def _row_starts(self, rows: int) -> Numbers:
        own = len(self._hashes)
        if rows % own if own else rows:
            raise ValueError(
                f"random numbers are asked for {rows} rows, but the batch has {own}; the first dimension "
                "must be the batch, or the batch times the rows of a sample"
            )
        return self._starts

    def _on_device(self) -> Numbers:
        starts = np.array(self._hashes, dtype=np.int64)
        if self._on is None:
            return starts
        on_host = torch.from_numpy(starts)
        if self.device.type == "cuda":
            on_host = on_host.pin_memory()  # a copy of pageable memory waits for all that the GPU has to do
        return on_host.to(self.device, non_blocking=True)


def _hash(purpose: str, *numbers: int) -> int:
    """Return 64 bits that depend on all of these, as a signed integer."""
    digest = hashlib.blake2b(repr((purpose, *map(int, numbers))).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _signed(number: int) -> int:
    """Return the int64 that a number wraps around to."""
    return (number + 2**63) % 2**64 - 2**63


_GAMMA = _signed(0x9E3779B97F4A7C15)
_ROW = _signed(_GAMMA * _GAMMA)
_FIRST_FACTOR, _SECOND_FACTOR = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)

_PIECE = 2**16
"""Numbers that a CPU makes at a time."""


def splitmix64(starts: Numbers, count: int) -> Numbers:
    """Return the first outputs of SplitMix64 generators.

    Args:
        starts: `(K,)`, the generators' seeds.
        count: outputs of each.

    Returns:
        `(K, count)`, as the starts are: an array, or a tensor on their device.
    """
    steps = _count(count, None if isinstance(starts, np.ndarray) else starts.device) + 1
    return _mixed(starts[:, None] + steps * _GAMMA)


def uniform_numbers(starts: Numbers, count: int) -> Numbers:
    """Return float32 numbers `(K, count)` uniform in [0, 1), multiples of 2⁻²⁴, of generators `(K,)`."""
    xp = _library(starts)
    halves = splitmix64(starts, -(-count // 2)).view(xp.int32)[:, :count]
    return xp.asarray(halves & (2**24 - 1), dtype=xp.float32) * 2.0**-24


def normal_numbers(starts: Numbers, count: int) -> Numbers:
    """Return float32 standard normal numbers `(K, count)` of generators `(K,)`.

    Box and Muller: √(−2 log u) · (cos φ, sin φ) with u uniform in (0, 1] and φ in [−π, π].
    """
    # Outputs 1 … n of a row are for its radii, n + 1 … 2n for its angles, each of two halves of 32 bits.
    n, xp = -(-count // 4), _library(starts)
    halves = xp.asarray(splitmix64(starts, 2 * n).view(xp.int32), dtype=xp.float32)
    # The halves are signed: |radius| · 2⁻³¹ is uniform, with all digits near 0, where large numbers are made.
    u = xp.clip(abs(halves[:, : 2 * n]) * 2.0**-31, 2.0**-32, 1.0)
    radius = xp.sqrt(xp.log(u) * -2.0)
    angle = halves[:, 2 * n :] * (math.pi * 2.0**-31)
    return xp.concatenate([xp.cos(angle) * radius, xp.sin(angle) * radius], 1)[:, :count]


def _in_pieces(make: Callable[[Numbers, int], Numbers], starts: Numbers, count: int) -> Tensor:
    """Return `make(starts, count)`, contiguous, on a CPU made of a few rows at a time.

    Intermediate results then stay in the cache and in memory that the process already has; of the time for a
    million normal numbers made at once, two thirds can go into fresh pages.
    """
    rows = max(1, _PIECE // max(1, count))
    if isinstance(starts, np.ndarray) and len(starts) > rows:
        made: Any = np.concatenate([make(starts[r : r + rows], count) for r in range(0, len(starts), rows)])
    else:
        made = make(starts, count)
    return torch.as_tensor(made).contiguous()


def _library(numbers: Numbers) -> Any:
    """Return numpy for an array and torch for a tensor; what is used here has one name in both."""
    return np if isinstance(numbers, np.ndarray) else torch


def _count(number: int, device: torch.device | None) -> Numbers:
    """Return 0 … number − 1: a tensor on a device, or an array."""
    return np.arange(number) if device is None else torch.arange(number, device=device)


def _mixed(state: Any) -> Any:
    """Return SplitMix64's hash of every state, in place."""
    # A shift to the right keeps the sign; the mask lets zeros move in.
    state ^= (state >> 30) & (2**34 - 1)
    state *= _FIRST_FACTOR
    state ^= (state >> 27) & (2**37 - 1)
    state *= _SECOND_FACTOR
    state ^= (state >> 31) & (2**33 - 1)
    return state
