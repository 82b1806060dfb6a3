"""Decoded frames in memory until their turn, so that what one keyframe gives is decoded once."""

from __future__ import annotations

import math
import mmap
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from trainer.data.errors import DatasetError
from trainer.data.threads import number_of_threads
from trainer.data.windows import Window, WindowGather

_NEVER = np.iinfo(np.int64).max

_BYTES_AT_ONCE = 64 * 2**20
"""Frames that one call decodes, for each thread."""


class FrameSource(Protocol):
    """N frames of a camera, each at a row.

    Attributes:
        shape: (3, H, W).
        frames_per_keyframe: how many frames are decoded for a random one, and one more; 1 if only itself.
    """

    shape: tuple[int, int, int]
    frames_per_keyframe: float

    def __len__(self) -> int:
        """Return N."""
        ...

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return the frames of rows `(K,)`, in any order and repeated at will: uint8 `(K, 3, H, W)`."""
        ...

    def together(self, rows: np.ndarray) -> np.ndarray:
        """Return all rows whose frames are decoded from the same keyframes as those of `rows`, these too."""
        ...


class FrameMemory:
    """Reads the frames of a camera, and keeps of what was decoded the frames that are needed soonest.

    A random frame of a video costs the decoding of all from the keyframe before it, while the order of an
    epoch is known from its beginning. So where a frame has to be decoded, those of its group of pictures that
    are needed within a horizon come out with it and wait in memory. Where all frames have room none leaves,
    and from the second epoch on nothing is decoded at all. What is kept changes no value.

    **The horizon.** Of N frames in groups of g, one group is asked for in every N/g uses. If a visit to it
    brings everything that is needed in the next h uses, it brings 1 + gh/N frames and is due again after as
    long, and a frame waits h/2 on average: so g h²/2N ÷ (1 + gh/N) frames wait at any time. There is room for
    M of them where h = M + √(M² + 2MN/g), which is up to twice what reading whole runs of batches at once
    shares with the same memory, and more in a large dataset.

    Several threads may read at once. Frames are kept only between `expect` and the end of what it told.

    Args:
        camera: where the frames come from.
        room: frames that are kept at most (M); their memory is taken at once.
    """

    def __init__(self, camera: FrameSource, room: int) -> None:
        count = len(camera)
        self.room = room
        self._camera = camera
        self._all = room >= count
        room = min(room, count)
        self._kept = np.empty((room, *camera.shape), np.uint8)
        self._kept.reshape(-1)[:: mmap.PAGESIZE] = 0  # so that no batch waits for the system to give it
        self._slot = np.full(count, -1, np.int64)  # row → place in `_kept`
        # The first `_left` of these places are free; the last of them is taken next.
        self._free = np.arange(room)[::-1].copy()
        self._left = room
        visits = 2 * room * count / camera.frames_per_keyframe
        self._horizon = math.inf if self._all else room + math.sqrt(room**2 + visits)
        # When each row is used: `_uses[_next[row] : _end[row]]`, ascending, in rows read since `expect`.
        self._uses = np.zeros(1, np.int64)
        self._next = np.zeros(count, np.int64)
        self._end = np.zeros(count, np.int64)
        self._now = 0
        self._first = True
        self._lock = threading.RLock()

    @property
    def frames(self) -> int:
        """Number of frames that are kept now."""
        return len(self._free) - self._left

    def expect(self, rows: np.ndarray) -> None:
        """Take over which rows will be read, `(L,)` in the order of their use."""
        uses = np.argsort(rows, kind="stable")
        counts = np.bincount(rows, minlength=len(self._slot))
        with self._lock:
            self._uses = uses
            self._end = np.cumsum(counts)
            self._next = self._end - counts
            self._now = 0
            self._release(np.flatnonzero(self._slot >= 0))

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return the frames of rows `(K,)`, in any order and repeated at will: uint8 `(K, 3, H, W)`."""
        out = np.empty((len(rows), *self._camera.shape), np.uint8)
        with self._lock:
            slots = self._slot[rows]
            lacking = np.flatnonzero(slots < 0)
            if len(lacking) < len(rows):
                # Whatever comes where a frame lacks is overwritten below.
                self._kept.take(slots, axis=0, out=out, mode="clip")
            self._count_use(rows)
            if not len(lacking):
                return out
            others = self._worth_decoding(rows[lacking])
            if self._first:
                # Whoever else reads waits here, for much of what comes out is for them.
                self._first = False
                self._decode(rows[lacking], others, out, lacking)
                return out
        self._decode(rows[lacking], others, out, lacking)
        return out

    def _decode(self, wanted: np.ndarray, others: np.ndarray, out: np.ndarray, where: np.ndarray) -> None:
        """Write the frames of the rows wanted to places in `out`, each to its own; keep the others'."""
        missing, at = np.unique(wanted, return_index=True)
        asked = np.sort(np.concatenate([missing, others]))
        step = max(1, number_of_threads() * _BYTES_AT_ONCE // math.prod(self._camera.shape))
        for begin in range(0, len(asked), step):
            some = asked[begin : begin + step]
            waits = np.isin(some, others)
            try:
                frames = self._camera.read(some)
            except DatasetError:
                # A frame that is damaged fails where it is needed, not where its neighbours are.
                some, waits = some[~waits], waits[~waits]
                frames = self._camera.read(some)
            here = np.flatnonzero(np.isin(wanted, some))
            places = np.searchsorted(some, wanted[here])
            for place, target in zip(places.tolist(), where[here].tolist(), strict=True):
                out[target] = frames[place]
            own = np.flatnonzero(waits)
            with self._lock:
                self._keep(some[own], frames, own)
        with self._lock:  # these come last, for there may be room for some only
            self._keep(missing, out, where[at])

    def _count_use(self, rows: np.ndarray) -> None:
        used = self._next_use(rows)
        self._now = max(self._now, int(used.max(initial=0, where=used < _NEVER)))
        np.add.at(self._next, rows, 1)
        self._next[rows] = np.minimum(self._next[rows], self._end[rows])
        self._release(rows)

    def _next_use(self, rows: np.ndarray) -> np.ndarray:
        place, end = self._next[rows], self._end[rows]
        return np.where(place < end, self._uses[np.minimum(place, len(self._uses) - 1)], _NEVER)

    def _needed(self, rows: np.ndarray) -> np.ndarray:
        """Tell which rows are worth keeping."""
        if self._all:
            return np.ones(len(rows), bool)
        return self._next_use(rows) <= self._now + self._horizon

    def _worth_decoding(self, missing: np.ndarray) -> np.ndarray:
        """Return the rows to decode beside those that are missing, each once."""
        others = np.setdiff1d(self._camera.together(missing), missing)
        others = others[self._slot[others] < 0]
        use = self._next_use(others)
        if not self._all:
            # At the beginning the horizon differs from group to group, or all of them would be due at once
            # again and again.
            spread = np.linspace(0, 1, len(others)) if self._first else 1.0
            near = use <= self._now + self._horizon * spread
            others, use = others[near], use[near]
        if len(others) > self._left:
            others = others[np.argpartition(use, self._left)[: self._left]]
        return others

    def _keep(self, rows: np.ndarray, frames: np.ndarray, places: np.ndarray) -> None:
        """Keep the frames of rows as long as there is room; they are at `places` in `frames`."""
        new = np.flatnonzero((self._slot[rows] < 0) & self._needed(rows))[: self._left]
        self._left -= len(new)
        slots = self._free[self._left : self._left + len(new)]
        self._slot[rows[new]] = slots
        for slot, place in zip(slots.tolist(), places[new].tolist(), strict=True):
            self._kept[slot] = frames[place]

    def _release(self, rows: np.ndarray) -> None:
        """Give up the frames of those rows that are needed late or never."""
        if self._all:
            return
        held = np.unique(rows[self._slot[rows] >= 0])
        gone = held[~self._needed(held)]
        self._free[self._left : self._left + len(gone)] = self._slot[gone]
        self._left += len(gone)
        self._slot[gone] = -1


class FrameMemories:
    """The memories of a dataset's cameras, which share what they may take.

    Frames are kept only for who says what comes; until then, and without memory, each is decoded as it is
    read. A copy in another process begins with none.

    Args:
        cameras: feature → camera.
    """

    def __init__(self, cameras: Mapping[str, FrameSource]) -> None:
        self._cameras = dict(cameras)
        self._memories: dict[str, FrameMemory] = {}
        self._owner = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {"_cameras": self._cameras, "_memories": {}, "_owner": 0}

    def read(self, key: str, rows: np.ndarray) -> np.ndarray:
        """Return the frames of a camera's rows `(K,)`: uint8 `(K, 3, H, W)`."""
        return self._memories.get(key, self._cameras[key]).read(rows)

    def expect(
        self, windows: Sequence[Window], gather: WindowGather, samples: np.ndarray, memory: int
    ) -> None:
        """Take over which samples will be read, and keep frames for them; those that were kept before stay.

        Args:
            windows: what a sample holds.
            gather: tells the rows of a window.
            samples: int64 `(L,)` in their order, until the next call and some way beyond it.
            memory: bytes for decoded frames.
        """
        room = memory // max(1, sum(math.prod(camera.shape) for camera in self._cameras.values()))
        kept = self._memories if self._owner == os.getpid() else {}
        self._owner = os.getpid()
        self._memories = {
            key: kept[key] if key in kept and kept[key].room == room else FrameMemory(camera, room)
            for key, camera in self._cameras.items()
            if room
        }
        for window in windows:
            if window.key in self._memories:
                self._memories[window.key].expect(gather.rows(window.offsets, samples).reshape(-1))

    @property
    def frames(self) -> dict[str, int]:
        """Number of frames that are kept, of each camera that keeps any."""
        return {key: memory.frames for key, memory in self._memories.items()}
