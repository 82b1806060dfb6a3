"""Keeping episodes from training, to measure on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from trainer.data.errors import DatasetError
from trainer.data.fetch import fetch_batch
from trainer.data.mixture import MixtureDataset, Part
from trainer.data.order import shuffled

Batch = dict[str, Any]

_SPLIT = 0x51DE
"""Sets the draw of the episodes apart from other numbers of the seed."""


class EpisodeSubset(Dataset[Batch]):
    """The samples of some episodes of a dataset.

    Args:
        dataset: tells the episode of every sample in `episode_index`, int64 `(N,)`.
        rows: the samples, int64 `(n,)`, ascending.
        episodes: how many episodes they are of.

    Attributes:
        image_keys: the features that are camera frames.
        concurrent_reads: whether several threads may read at once, and a sample depends on its index alone.
    """

    def __init__(self, dataset: Dataset[Any], rows: np.ndarray, episodes: int) -> None:
        self.dataset = dataset
        self.rows = rows
        self.image_keys = tuple(getattr(dataset, "image_keys", ()))
        self.concurrent_reads = bool(getattr(dataset, "concurrent_reads", False))
        self._episodes = episodes

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Batch:
        """Return one sample."""
        sample: Batch = self.dataset[int(self.rows[index])]
        return sample

    def __getitems__(self, indices: Sequence[int] | np.ndarray | Tensor) -> Batch:
        """Return the samples `indices` `(B,)` as one batch."""
        return fetch_batch(self.dataset, self.rows[np.asarray(indices, np.int64)])

    def expect(self, samples: np.ndarray, memory: int) -> None:
        """Tell the dataset which samples will be read, `(L,)` in their order, and its memory in bytes."""
        if hasattr(self.dataset, "expect"):
            self.dataset.expect(self.rows[samples], memory)

    def facts(self) -> dict[str, Any]:
        """Return what the dataset says of itself, with the numbers of these episodes."""
        own = self.dataset.facts() if hasattr(self.dataset, "facts") else {}
        return {**own, "episodes": self._episodes, "frames": len(self)}


def split_episodes(
    dataset: Dataset[Any], seed: int, *, fraction: float | None = None, episodes: Sequence[int] | None = None
) -> tuple[Dataset[Batch], Dataset[Batch]]:
    """Return the samples to train on and those to validate on; no episode is in both.

    Args:
        dataset: tells `episode_index`; of a mixture every dataset is split by itself.
        seed: chooses the episodes where a fraction is asked for; the choice depends on nothing else.
        fraction: share of the episodes to validate on, at least one.
        episodes: their numbers.

    Raises:
        DatasetError: the dataset does not tell its episodes, lacks one that is named, or nothing is left.
    """
    if isinstance(dataset, MixtureDataset):
        halves = [
            split_episodes(part.dataset, seed, fraction=fraction, episodes=episodes) for part in dataset.parts
        ]
        train, held_out = (
            dataset.with_parts(
                [
                    Part(part.name, pair[half], part.weight, part.norm_stats)
                    for part, pair in zip(dataset.parts, halves, strict=True)
                ]
            )
            for half in (0, 1)
        )
        return train, held_out
    of_sample = getattr(dataset, "episode_index", None)
    if of_sample is None:
        raise DatasetError(
            f"{type(dataset).__name__} cannot be split by episodes: it does not tell the `episode_index` "
            "of its samples"
        )
    numbers = np.unique(of_sample)
    if episodes is None:
        assert fraction is not None
        count = max(1, round(fraction * len(numbers)))
        chosen = np.sort(numbers[shuffled(len(numbers), seed, _SPLIT)[:count]])
    else:
        missing = sorted(set(episodes) - set(numbers.tolist()))
        if missing:
            raise DatasetError(
                f"there is no episode {missing[0]} to validate on; they are {numbers.min()} to "
                f"{numbers.max()}"
            )
        chosen = np.unique(np.asarray(episodes, np.int64))
    if len(chosen) == len(numbers):
        raise DatasetError(
            f"all {len(numbers)} episodes are kept for validation, so there is nothing to train on"
        )
    held = np.isin(of_sample, chosen)
    return (
        EpisodeSubset(dataset, np.flatnonzero(~held), len(numbers) - len(chosen)),
        EpisodeSubset(dataset, np.flatnonzero(held), len(chosen)),
    )
