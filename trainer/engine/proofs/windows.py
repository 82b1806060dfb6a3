"""Claims about windows: each place of a window holds the frame that its offset names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.engine.build_data import Data
from trainer.engine.check import DATAMODULE
from trainer.engine.proofs.claim import Claim, Fault, not_applicable

TEXT = "windows hold the frames that their offsets name"
_COMPARED = 3
"""Offsets on either side that are held against the samples of those frames."""


def window_claims(data: Data) -> Iterator[Claim]:
    """Yield the claim about the windows of a dataset."""
    windows: Mapping[str, Sequence[int]] = data.dataset.facts().get("windows", {})
    row, low, high = _episode(data)
    offsets = sorted({o for several in windows.values() for o in several if low <= row + o < high}, key=abs)
    rows = np.array([row, *(row + o for o in offsets[: 2 * _COMPARED + 1] if o)])
    samples = [dict(data.dataset.__getitems__(rows)) for _ in range(2)]
    places = {int(r) - row: place for place, r in enumerate(rows)}
    compared, faults = 0, []
    for key, several in windows.items():
        values: list[Any] = [one.get(key) for one in samples]
        if not _comparable(values, several) or not _are_neighbours(samples[0], places):
            continue
        now = list(several).index(0)
        for place, offset in enumerate(several):
            if offset in places and offset:
                compared += 1
                ours, theirs = values[0][0, place], values[0][places[offset], now]
                if not torch.equal(ours.nan_to_num(), theirs.nan_to_num()):
                    message = (
                        f"the window of '{key}' has at offset {offset:+d} of sample {row} another frame than "
                        f"sample {row + offset} has at offset 0"
                    )
                    hint = (
                        "are the offsets of facts()['windows'] those of the frames in a sample, oldest first?"
                    )
                    faults.append(Fault(DATAMODULE, message, hint))
                    break
    if not compared:
        yield not_applicable("data", TEXT, "there are no windows of several frames to compare")
        return
    yield Claim("data", TEXT, f"{compared} frames around sample {row}, {len(faults)} others", faults=faults)


def _episode(data: Data) -> tuple[int, int, int]:
    """Return a sample in the middle of an episode, and where the episode begins and ends."""
    length, episodes = len(data.dataset), data.dataset.episode_index
    row = length // 2
    if episodes is None or len(episodes) != length:
        return row, 0, length
    own = np.flatnonzero(episodes == episodes[row])
    low, high = int(own[0]), int(own[-1]) + 1
    return (low + high) // 2, low, high


def _comparable(values: Sequence[Any], offsets: Sequence[int]) -> bool:
    """Say whether a feature has a dimension of time with several places, and is not drawn at random."""
    one, other = values
    return (
        isinstance(one, Tensor)
        and one.ndim > 1
        and one.shape[1] == len(offsets) > 1
        and 0 in offsets
        and torch.equal(one.nan_to_num(), other.nan_to_num())
    )


def _are_neighbours(sample: Mapping[str, Any], places: Mapping[int, int]) -> bool:
    """Say whether samples that follow each other are frames that do, as far as they tell."""
    frames = sample.get("frame_index")
    if not isinstance(frames, Tensor) or frames.ndim != 1:
        return True
    return all(int(frames[place]) == int(frames[places[0]]) + offset for offset, place in places.items())
