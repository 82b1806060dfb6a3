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

import functools
import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

POLICY, AUGMENTATION = 0, 1

Numbers = Any
"""An array for a CPU, else a tensor: numpy needs a third of torch's time for as few as a chunk has."""

Make = Callable[[Numbers, int], Numbers]
"""Makes so many numbers of each of the generators that start at `(K,)`."""


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

    Attributes:
        calls: number of draws so far.
    """

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self._on = None if self.device.type == "cpu" else self.device
        self.calls = 0

    @abstractmethod
    def _shared_start(self) -> int:
        """Return where the numbers start that all rows share."""

    @abstractmethod
    def _row_starts(self, rows: int, call: int) -> Numbers:
        """Return where the numbers of `rows` rows start, `(K,)`; each start is that of `rows / K` rows.

        Args:
            rows: their number.
            call: what the starts of this draw are moved by.
        """

    def normal(self, shape: tuple[int, ...], *, shared: bool = False) -> Tensor:
        """Return standard normal numbers of shape `(B, …)`, float32; see `Random` about `shared`.

        Raises:
            ValueError: the shape has no batch.
        """
        return self._drawn(normal_numbers, shape, shared)

    def uniform(self, shape: tuple[int, ...], *, shared: bool = False) -> Tensor:
        """Return numbers uniform in [0, 1) of shape `(B, …)`, float32; see `Random` about `shared`.

        Raises:
            ValueError: the shape has no batch.
        """
        return self._drawn(uniform_numbers, shape, shared)

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
        start = np.array([_signed(self._shared_start() + self._next_call())])
        # A generator's outputs are all different, so there are no ties.
        order: list[int] = splitmix64(start, n)[0].argsort().tolist()
        return order

    def _drawn(self, make: Make, shape: tuple[int, ...], shared: bool) -> Tensor:
        """Return the numbers of the next draw."""
        if not (shape or shared):
            raise ValueError("random numbers of shape () have no batch; ask for (B, …), or for shared ones")
        call = self._next_call()
        if shared:
            starts = _multiples(0, 0, 1, self._on) + _signed(self._shared_start() + call)
        else:
            starts = self._row_starts(shape[0], call)
        return _in_pieces(make, starts, shape)

    def _next_call(self) -> int:
        self.calls += 1
        return _hash("call", self.calls)


class StepsAhead:
    """Small draws of a run, made for some steps at once.

    What a draw of a few thousand numbers costs is its forty calls of a library, and a run asks at every step
    for the same draws. As numbers are a function of where they stand, those of the coming steps can be made
    with them; they are the same ones.
    """

    NUMBERS = 2**15
    """So many are made at once."""
    STEPS = 16
    DRAWS = 128
    """So many different draws are kept; others are made step by step."""

    def __init__(self) -> None:
        self._made: dict[Hashable, tuple[int, Tensor]] = {}

    def draw(self, what: Hashable, step: int, steps: int, make: Callable[[range], Tensor]) -> Tensor:
        """Return a draw at a step.

        Args:
            what: tells draws of one step from each other.
            step: which is asked for.
            steps: so many are made together.
            make: makes the draw of some steps, `(steps, …)`.
        """
        first = step - step % steps
        known = self._made.get(what)
        if known is None and len(self._made) == self.DRAWS:
            return make(range(step, step + 1))[0]
        if known is None or known[0] != first:
            known = self._made[what] = first, make(range(first, first + steps))
        # Whoever draws may write into the numbers, and a step may be asked for once more.
        return known[1][step - first].clone()


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
        ahead: keeps the small draws of coming steps, for a run that goes through them one by one.

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
        ahead: StepsAhead | None = None,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"there is no rank {rank} among {world_size}")
        self.rank = rank
        self.world_size = world_size
        self._seed, self._step, self._stream = seed, step, stream
        self._ahead = ahead
        super().__init__(device)

    def _start(self, step: int) -> int:
        """Return where the rows of the global batch of a step begin."""
        return _hash("batch", self._seed, step, self._stream)

    def _shared_start(self) -> int:
        # What is shared is a row too, the one before the first.
        return self._start(self._step) - _ROW

    def _row_starts(self, rows: int, call: int) -> Numbers:
        return self._of_step(self._step, rows, call)

    def _of_step(self, step: int, rows: int, call: int) -> Numbers:
        return _multiples(_ROW, self.rank * rows, rows, self._on) + _signed(self._start(step) + call)

    def _drawn(self, make: Make, shape: tuple[int, ...], shared: bool) -> Tensor:
        steps = min(StepsAhead.STEPS, StepsAhead.NUMBERS // max(math.prod(shape), 1))
        if self._ahead is None or shared or not shape or steps < 2:
            return super()._drawn(make, shape, shared)
        call = self._next_call()

        def made(steps: range) -> Tensor:
            starts = [self._of_step(step, shape[0], call) for step in steps]
            together = np.concatenate(starts) if self._on is None else torch.cat(starts)
            return _in_pieces(make, together, (len(steps), *shape))

        what = (make, shape, self._seed, self._stream, self.rank, self.calls)
        return self._ahead.draw(what, self._step, steps, made)


class RowRandom(_Draws):
    """Draws in which every row has its own seed: a robot's numbers do not depend on who rolls out beside it.

    A row's numbers are a pure function of its seed and of how many draws were made before. What rows share
    depends on the number of draws alone.

    Args:
        seeds: one seed per row.
        device: where the numbers are made.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        super().__init__(device)
        self._hashes = [_hash("row", seed) for seed in seeds]
        self._of_rows = self._on_device()

    def _shared_start(self) -> int:
        return _hash("shared")

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only."""
        self._hashes = [self._hashes[row] for row in rows]
        self._of_rows = self._on_device()

    def _row_starts(self, rows: int, call: int) -> Numbers:
        own = len(self._hashes)
        if rows % own if own else rows:
            raise ValueError(
                f"random numbers are asked for {rows} rows, but the batch has {own}; the first dimension "
                "must be the batch, or the batch times the rows of a sample"
            )
        return self._of_rows + call

    def _on_device(self) -> Numbers:
        starts = np.array(self._hashes, dtype=np.int64)
        if self._on is None:
            return starts
        on_host = torch.from_numpy(starts)
        if self.device.type == "cuda":
            on_host = on_host.pin_memory()  # a copy of pageable memory waits for all that the GPU has to do
        return on_host.to(self.device, non_blocking=True)


@functools.lru_cache(maxsize=1024)
def _hash(purpose: str, *numbers: int) -> int:
    """Return 64 bits that depend on all of these, as a signed integer; every step counts its draws anew."""
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
    device = None if isinstance(starts, np.ndarray) else starts.device
    return _mixed(starts[:, None] + _multiples(_GAMMA, 1, count, device))


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


def _in_pieces(make: Make, starts: Numbers, shape: tuple[int, ...]) -> Tensor:
    """Return what `make(starts, count)` makes, in a shape, on a CPU made of a few rows at a time.

    Intermediate results then stay in the cache and in memory that the process already has; of the time for a
    million normal numbers made at once, two thirds can go into fresh pages.
    """
    count = math.prod(shape) // max(len(starts), 1)
    if not isinstance(starts, np.ndarray):
        on_device: Tensor = make(starts, count).reshape(shape).contiguous()
        return on_device
    rows = max(1, _PIECE // max(1, count))
    if len(starts) > rows:
        made = np.concatenate([make(starts[r : r + rows], count) for r in range(0, len(starts), rows)])
    else:
        made = make(starts, count)
    return torch.from_numpy(np.ascontiguousarray(made).reshape(shape))


def _library(numbers: Numbers) -> Any:
    """Return numpy for an array and torch for a tensor; what is used here has one name in both."""
    return np if isinstance(numbers, np.ndarray) else torch


def _multiples(factor: int, first: int, count: int, device: torch.device | None) -> Numbers:
    """Return `factor` times `first`, `first` + 1, …, so many: a tensor on a device, or an array."""
    if device is None:
        return _kept_multiples(factor, first, count)
    return torch.arange(first, first + count, device=device) * factor


@functools.lru_cache(maxsize=64)
def _kept_multiples(factor: int, first: int, count: int) -> Numbers:
    """Return the array of `_multiples`; a loop asks for the same ones at every step."""
    multiples = np.arange(first, first + count) * factor
    multiples.flags.writeable = False
    return multiples


def _mixed(state: Numbers) -> Numbers:
    """Return SplitMix64's hash of every state, in place."""
    state ^= _shifted(state, 30)
    state *= _FIRST_FACTOR
    state ^= _shifted(state, 27)
    state *= _SECOND_FACTOR
    state ^= _shifted(state, 31)
    return state


def _shifted(state: Numbers, bits: int) -> Numbers:
    """Return the bits of numbers further to the right; zeros move in."""
    if isinstance(state, np.ndarray):
        return (state.view(np.uint64) >> bits).view(np.int64)
    return (state >> bits) & (2 ** (64 - bits) - 1)
