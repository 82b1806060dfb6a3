"""What an inspection found: faults, which a training should not start with, and remarks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Finding:
    """One thing that was found, in all the places where it was found.

    Attributes:
        kind: what it is in one word, such as `nan`, `jump` or `video_frames`.
        message: one sentence without its full stop; it names the first place.
        fault: whether a training should not start with it; else it is a remark.
        feature: the feature that it is about, if any.
        episodes: numbers of the episodes in which it is, ascending; empty where it is not about episodes.
    """

    kind: str
    message: str
    fault: bool = True
    feature: str | None = None
    episodes: tuple[int, ...] = ()


class Findings:
    """Collects findings in the order in which they are made."""

    def __init__(self) -> None:
        self._found: list[Finding] = []

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def fault(
        self, kind: str, message: str, *, feature: str | None = None, episodes: Sequence[int] = ()
    ) -> None:
        """Add a fault."""
        self._add(kind, message, True, feature, episodes)

    def remark(
        self, kind: str, message: str, *, feature: str | None = None, episodes: Sequence[int] = ()
    ) -> None:
        """Add a remark."""
        self._add(kind, message, False, feature, episodes)

    def _add(
        self, kind: str, message: str, fault: bool, feature: str | None, episodes: Sequence[int]
    ) -> None:
        numbers = tuple(int(n) for n in np.unique(np.asarray(episodes, np.int64)))
        self._found.append(Finding(kind, message, fault, feature, numbers))


def counted(count: int, what: str) -> str:
    """Write a number of things: `1 frame`, `2,000 frames`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def in_places(frames: int, episodes: Sequence[int], first_frame: int, first_episode: int) -> str:
    """Say where something is: how many frames of which episodes, and the first of them."""
    number = len(np.unique(np.asarray(episodes)))
    if frames == 1:
        return f"in frame {first_frame} of episode {first_episode}"
    first = f"first in frame {first_frame} of episode {first_episode}"
    return f"in {counted(frames, 'frame')} of {counted(number, 'episode')}, {first}"
