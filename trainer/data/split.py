"""Keeping episodes from training, to measure on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from trainer.data.adapted import as_training_dataset
from trainer.data.chosen_episodes import Episodes, chosen_episodes
from trainer.data.columns import columns_of
from trainer.data.errors import DatasetError, EpisodesError
from trainer.data.mixture import MixtureDataset, Part
from trainer.templates import TrainingDataset
from trainer.utils.samples import Samples
from trainer.utils.shuffle import shuffled

Batch = dict[str, Any]

_SPLIT = 0x51DE
"""Sets the draw of the episodes apart from other numbers of the seed."""

_TRIES = 100
"""Epochs of a dataset's own order that are drawn at most to fill one of a subset."""


class EpisodeSubset(TrainingDataset):
    """The samples of some episodes of a dataset, each once in an epoch.

    Args:
        dataset: all of the samples.
        rows: the chosen ones, int64 `(n,)`, ascending.
        episodes: how many episodes they are of.
    """

    def __init__(self, dataset: TrainingDataset, rows: np.ndarray, episodes: int) -> None:
        self.dataset = dataset
        self.rows = rows
        self.image_keys = dataset.image_keys
        self.columns = columns_of(dataset)
        self.concurrent_reads = dataset.concurrent_reads
        self.keeps_frames = dataset.keeps_frames
        self.splits = dataset.splits
        self._episodes = episodes

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Batch:
        """Return one sample."""
        return self.dataset[int(self.rows[index])]

    def __getitems__(self, indices: Sequence[int] | np.ndarray | Tensor) -> Samples:
        """Return the samples `indices` `(B,)` as one batch."""
        return Samples(self.dataset.__getitems__(self.rows[np.asarray(indices, np.int64)]))

    @property
    def episode_index(self) -> np.ndarray | None:
        """Number of every sample's episode, int64 `(n,)`."""
        of_all = self.dataset.episode_index
        return None if of_all is None else of_all[self.rows]

    def feature_values(self, feature: str) -> np.ndarray | None:
        """Return all values of a feature, of the other episodes too, as its statistics are over all."""
        return self.dataset.feature_values(feature)

    def expect(self, samples: np.ndarray, memory: int) -> None:
        """Tell the dataset which samples will be read, `(L,)` in their order, and its memory in bytes."""
        self.dataset.expect(self.rows[samples], memory)

    def of_robot(self, samples: Batch) -> Batch:
        """Return samples from elsewhere as the dataset has its own."""
        return self.dataset.of_robot(samples)

    def batch_metrics(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return what the dataset says of a batch."""
        return self.dataset.batch_metrics(batch)

    def facts(self) -> dict[str, Any]:
        """Return what the dataset says of itself, with the numbers of these episodes."""
        return {**self.dataset.facts(), "episodes": self._episodes, "frames": len(self)}


class DrawnSubset(EpisodeSubset):
    """The samples of some episodes of a dataset that draws its epochs by itself, drawn as it draws them.

    An epoch is what the dataset's own order has of these episodes. It is as long as that is in epoch 0; where
    another epoch, drawn at random, has fewer, further draws follow, and where it has more, the last are left
    out.

    Args:
        dataset: all of the samples, with an order of its own.
        rows: the chosen ones, int64 `(n,)`, ascending.
        episodes: how many episodes they are of.
        seed: seed of the run, for the length of an epoch.

    Raises:
        DatasetError: the order has none of these episodes in epoch 0; or later, too few in another epoch.
    """

    def __init__(self, dataset: TrainingDataset, rows: np.ndarray, episodes: int, seed: int) -> None:
        super().__init__(dataset, rows, episodes)
        self.repeats_samples = dataset.repeats_samples
        self._place = np.full(len(dataset), -1, np.int64)
        self._place[rows] = np.arange(len(rows))
        self._count = len(self._drawn(seed, 0))
        if self._count == 0:
            raise DatasetError(
                "the dataset's own epoch_order draws from none of the episodes that are left to train on; "
                "keep others for validation"
            )

    @property
    def samples_per_epoch(self) -> int:
        """Number of samples in an epoch."""
        return self._count

    def epoch_order(self, seed: int, epoch: int) -> np.ndarray:
        """Return the samples of an epoch in the dataset's own order, int64 `(samples_per_epoch,)`."""
        drawn = self._drawn(seed, epoch)
        for again in range(1, _TRIES):
            if len(drawn) >= self._count:
                return drawn[: self._count]
            words = np.random.SeedSequence([seed % 2**64, _SPLIT, again]).generate_state(1)
            drawn = np.concatenate([drawn, self._drawn(int(words[0]), epoch)])
        raise DatasetError(
            f"the dataset's own epoch_order has too few samples of the training episodes in epoch {epoch}, "
            f"{len(drawn)} in {_TRIES} draws; keep other episodes for validation"
        )

    def _drawn(self, seed: int, epoch: int) -> np.ndarray:
        places = self._place[self.dataset.epoch_order(seed, epoch)]
        return places[places >= 0]


def split_episodes(
    dataset: Dataset[Any], seed: int, *, fraction: float | None = None, episodes: Episodes | None = None
) -> tuple[TrainingDataset, TrainingDataset]:
    """Return the samples to train on and those to validate on; no episode is in both.

    A dataset that draws its epochs by itself, such as by weight, goes on to do so among the episodes to train
    on. Those to validate on come once each, whatever their weight.

    Args:
        dataset: tells `episode_index`; of a mixture every dataset is split by itself.
        seed: that of the run; it chooses the episodes where a fraction is asked for, and the choice depends
            on nothing else.
        fraction: share of the episodes to validate on, at least one.
        episodes: their numbers, ranges of these, or names of splits that the dataset tells.

    Raises:
        EpisodesError: the dataset lacks an episode or a split that is named.
        DatasetError: the dataset does not tell its episodes, or nothing is left.
    """
    if isinstance(dataset, MixtureDataset):
        halves = [_halves_of(part, seed, fraction, episodes) for part in dataset.parts]
        return _mixture_of(dataset, [half[0] for half in halves]), _each_once(dataset, [h[1] for h in halves])
    dataset = as_training_dataset(dataset)
    of_sample = dataset.episode_index
    if of_sample is None:
        raise DatasetError(
            "the dataset cannot be split by episodes: it does not tell the `episode_index` of its samples"
        )
    numbers = np.unique(of_sample)
    if episodes is None:
        assert fraction is not None
        count = max(1, round(fraction * len(numbers)))
        chosen = np.sort(numbers[shuffled(len(numbers), seed, _SPLIT)[:count]])
    else:
        named = chosen_episodes(episodes, numbers.tolist(), dataset.splits, "the data module has")
        chosen = np.array(named, np.int64)
    if len(chosen) == len(numbers):
        raise DatasetError(
            f"all {len(numbers)} episodes are kept for validation, so there is nothing to train on"
        )
    held = np.isin(of_sample, chosen)
    left, count = np.flatnonzero(~held), len(numbers) - len(chosen)
    own = dataset.has_own_order
    train = DrawnSubset(dataset, left, count, seed) if own else EpisodeSubset(dataset, left, count)
    return train, EpisodeSubset(dataset, np.flatnonzero(held), len(chosen))


def _halves_of(
    part: Part, seed: int, fraction: float | None, episodes: Episodes | None
) -> tuple[TrainingDataset, TrainingDataset]:
    """Split one dataset of a mixture; what is wrong names it."""
    try:
        return split_episodes(part.dataset, seed, fraction=fraction, episodes=episodes)
    except EpisodesError as problem:
        raise EpisodesError(f"'{part.name}': {problem.message}", problem.hint) from None


def _mixture_of(mixture: MixtureDataset, datasets: Sequence[TrainingDataset]) -> MixtureDataset:
    """Return the mixture of other datasets under the same names and weights."""
    pairs = zip(mixture.parts, datasets, strict=True)
    try:
        return mixture.with_parts([Part(p.name, own, p.weight, p.norm_stats) for p, own in pairs])
    except ValueError as problem:
        raise DatasetError(f"without the episodes to validate on, {problem}") from None


def _each_once(mixture: MixtureDataset, datasets: Sequence[TrainingDataset]) -> MixtureDataset:
    """Return the mixture in which every sample of other datasets comes once."""
    pairs = zip(mixture.parts, datasets, strict=True)
    return MixtureDataset([Part(p.name, own, len(own), p.norm_stats) for p, own in pairs], pad=mixture.pad)
