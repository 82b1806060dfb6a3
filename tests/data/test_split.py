"""Episodes kept for validation from datasets that have more to say than their samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from trainer.data.errors import DatasetError
from trainer.data.loader import BatchLoader
from trainer.data.mixture import MixtureDataset, Part
from trainer.data.split import split_episodes
from trainer.templates import TrainingDataset

EPISODES, FRAMES = 10, 20


class Weighted(TrainingDataset):
    """Ten episodes; an epoch draws with replacement, and episode e comes e times as often as episode 1."""

    def __len__(self) -> int:
        return EPISODES * FRAMES

    def __getitems__(self, indices: Any) -> dict[str, Any]:
        rows = torch.as_tensor(np.asarray(indices))
        return {"index": rows, "episode_index": rows // FRAMES}

    @property
    def samples_per_epoch(self) -> int:
        return 5000

    def epoch_order(self, seed: int, epoch: int) -> np.ndarray:
        weight = self.episode_index / self.episode_index.sum()
        return np.random.default_rng([seed, epoch]).choice(len(self), self.samples_per_epoch, p=weight)

    @property
    def episode_index(self) -> np.ndarray:
        return np.repeat(np.arange(EPISODES), FRAMES)

    def batch_metrics(self, batch: Any) -> dict[str, torch.Tensor]:
        return {"mean episode": batch["episode_index"].float().mean()}


class Plain(Weighted):
    """The same, each sample once."""

    samples_per_epoch = TrainingDataset.samples_per_epoch
    epoch_order = TrainingDataset.epoch_order


def test_a_weighted_dataset_stays_weighted_among_the_episodes_to_train_on() -> None:
    train, held_out = split_episodes(Weighted(), seed=3, episodes=[1, 9])
    # Of 45 parts 10 belong to the episodes that are kept.
    assert train.samples_per_epoch == pytest.approx(5000 * 35 / 45, rel=0.03)
    drawn = []
    for epoch in (0, 1, 2):
        order = train.epoch_order(3, epoch)
        assert len(order) == train.samples_per_epoch
        drawn.append(train.__getitems__(order)["episode_index"].numpy())
    shares = np.bincount(np.concatenate(drawn), minlength=EPISODES) / sum(map(len, drawn))
    assert shares[[0, 1, 9]].tolist() == [0, 0, 0]
    np.testing.assert_allclose(shares[2:9], np.arange(2, 9) / 35, atol=0.015)
    assert not np.array_equal(drawn[0], drawn[1])
    again, _ = split_episodes(Weighted(), seed=3, episodes=[1, 9])
    np.testing.assert_array_equal(again.epoch_order(3, 2), train.epoch_order(3, 2))
    assert held_out.samples_per_epoch == len(held_out) == 2 * FRAMES
    assert sorted(held_out.epoch_order(3, 0)) == list(range(2 * FRAMES))


def test_a_split_dataset_goes_on_to_say_what_a_batch_is() -> None:
    train, _ = split_episodes(Weighted(), seed=0, episodes=[0])
    batch = next(BatchLoader(train, batch_size=50).epoch(0))
    expected = batch["episode_index"].float().mean()
    assert train.batch_metrics(batch) == {"mean episode": expected}


def test_an_order_without_the_episodes_to_train_on_is_refused() -> None:
    class OneEpisode(Weighted):
        def epoch_order(self, seed: int, epoch: int) -> np.ndarray:
            return np.full(5000, 2 * FRAMES if epoch == 0 else 5 * FRAMES)

    with pytest.raises(DatasetError, match="own epoch_order draws from none of the episodes that are left"):
        split_episodes(OneEpisode(), seed=0, episodes=[2])
    train, _ = split_episodes(OneEpisode(), seed=0, episodes=[5])
    assert set(train.epoch_order(0, 0)) == {2 * FRAMES}
    with pytest.raises(DatasetError, match="too few samples of the training episodes in epoch 1"):
        train.epoch_order(0, 1)


def test_a_dataset_without_episodes() -> None:
    class Frames(Plain):
        episode_index = None

    with pytest.raises(DatasetError, match="does not tell the `episode_index` of its samples"):
        split_episodes(Frames(), seed=0, fraction=0.5)


def test_a_mixture_is_validated_on_every_sample_once_whatever_its_weights() -> None:
    mixture = MixtureDataset([Part("a", Plain(), 1000.0), Part("b", Plain(), 1.0)], samples_per_epoch=9000)
    train, held_out = split_episodes(mixture, seed=0, episodes=[4])
    assert train.samples_per_epoch == 8100
    assert held_out.samples_per_epoch == len(held_out) == 2 * FRAMES
    assert sorted(held_out.epoch_order(0, 0)) == list(range(2 * FRAMES))
    few = MixtureDataset([Part("a", Plain(), 380.0), Part("b", Plain(), 1.0)], samples_per_epoch=200)
    with pytest.raises(DatasetError, match="without the episodes to validate on, of 180 samples in an epoch"):
        split_episodes(few, seed=0, episodes=[4])


def test_a_subset_repeats_samples_on_purpose_as_its_dataset_does() -> None:
    class Repeating(Weighted):
        repeats_samples = True

    assert split_episodes(Repeating(), seed=3, episodes=[1])[0].repeats_samples
    assert not split_episodes(Weighted(), seed=3, episodes=[1])[0].repeats_samples
    assert not split_episodes(Repeating(), seed=3, episodes=[1])[1].repeats_samples, "each once"
