"""Datasets that were written without training in mind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from trainer.data.adapted import as_training_dataset
from trainer.data.errors import DatasetError
from trainer.data.loader import BatchLoader
from trainer.templates import TrainingDataset


class Numbers(Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"x": torch.tensor(float(index))}


class Drawn(Numbers):
    samples_per_epoch = 30
    concurrent_reads = True

    def epoch_order(self, seed: int, epoch: int) -> np.ndarray:
        return np.full(30, epoch)

    def batch_metrics(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"largest": batch["x"].max()}


def test_a_plain_dataset_has_the_defaults() -> None:
    dataset = as_training_dataset(Numbers())
    assert dataset.samples_per_epoch == len(dataset) == 12
    assert sorted(dataset.epoch_order(0, 0)) == list(range(12))
    assert not dataset.has_own_order
    assert dataset.facts() == {}
    assert dataset.episode_index is None
    assert dataset.__getitems__([3, 1])["x"].tolist() == [3, 1]
    assert as_training_dataset(dataset) is dataset


def test_what_a_plain_dataset_says_of_itself_counts() -> None:
    dataset = as_training_dataset(Drawn())
    assert dataset.concurrent_reads
    assert dataset.has_own_order
    loader = BatchLoader(Drawn(), batch_size=10)
    assert loader.steps_per_epoch == 3
    batch = next(loader.epoch(7))
    assert batch["x"].tolist() == [7.0] * 10
    assert dataset.batch_metrics(batch)["largest"] == 7


class ByBatch(TrainingDataset):
    def __len__(self) -> int:
        return 5

    def __getitems__(self, indices: Any) -> dict[str, Any]:
        return {"x": torch.as_tensor(np.asarray(indices)) * 10}


class BySample(TrainingDataset):
    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"x": torch.tensor(index * 10)}


@pytest.mark.parametrize("kind", [ByBatch, BySample])
def test_a_sample_or_a_batch_follows_from_the_other(kind: type[TrainingDataset]) -> None:
    dataset = kind()
    assert dataset.__getitems__([4, 0])["x"].tolist() == [40, 0]
    assert dataset[2]["x"] == 20


def test_a_sample_that_is_not_there() -> None:
    assert ByBatch()[-1]["x"] == 40
    with pytest.raises(IndexError, match="no sample 5 among 5"):
        ByBatch()[5]


def test_a_dataset_that_gives_nothing() -> None:
    class Empty(TrainingDataset):
        def __len__(self) -> int:
            return 5

    with pytest.raises(NotImplementedError, match="Empty has neither __getitem__ nor __getitems__"):
        Empty()[0]


def test_an_order_of_another_length_than_an_epoch() -> None:
    class Short(ByBatch):
        def epoch_order(self, seed: int, epoch: int) -> np.ndarray:
            return np.arange(4)

    with pytest.raises(DatasetError, match="gives 4 samples in epoch 2, and its samples_per_epoch is 5"):
        next(BatchLoader(Short(), batch_size=2).epoch(2))


def test_an_epoch_may_be_a_part_of_the_samples() -> None:
    class Few(ByBatch):
        samples_per_epoch = 2

    orders = np.stack([Few().epoch_order(0, epoch) for epoch in range(20)])
    assert orders.shape == (20, 2)
    assert (orders[:, 0] != orders[:, 1]).all()
    assert set(orders.reshape(-1)) == set(range(5))


def test_the_values_of_a_plain_dataset_can_be_looked_at():
    class Told(Numbers):
        def feature_values(self, feature):
            return np.full((4, 2), 7.0) if feature == "x" else None

    dataset = as_training_dataset(Told())
    assert dataset.feature_values("x").tolist() == [[7.0, 7.0]] * 4
    assert as_training_dataset(Numbers()).feature_values("x") is None
