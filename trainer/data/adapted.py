"""A torch Dataset that knows nothing of training, as one that does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from typing import Any, cast

import numpy as np
from torch.utils.data import Dataset, default_collate

from trainer.data.columns import Column
from trainer.data.errors import DatasetError
from trainer.templates import TrainingDataset
from trainer.utils.samples import Samples
from trainer.utils.text import first_line

_KEPT = (
    "image_keys",
    "concurrent_reads",
    "repeats_samples",
    "epoch_order",
    "feature_values",
    "expect",
    "batch_metrics",
    "facts",
)


def as_training_dataset(dataset: Dataset[Any]) -> TrainingDataset:
    """Return the dataset itself if it is a `TrainingDataset`, else one that reads it."""
    return dataset if isinstance(dataset, TrainingDataset) else AdaptedDataset(dataset)


class AdaptedDataset(TrainingDataset):
    """A torch Dataset with a length as a `TrainingDataset`.

    Its `__getitems__`, where it has one, may return a batch, or a list of samples as torch has it; samples
    are dicts, collated by torch's `default_collate`. Whatever else it has under the names of a
    `TrainingDataset` is taken; the rest is as there by default.

    Args:
        dataset: the torch Dataset.
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset
        for name in _KEPT:
            if hasattr(dataset, name):
                setattr(self, name, getattr(dataset, name))
        columns = getattr(dataset, "columns", None)
        # A dataset of the user's own may call anything so.
        if isinstance(columns, dict) and all(isinstance(column, Column) for column in columns.values()):
            self.columns = columns
        splits = getattr(dataset, "splits", None)
        if isinstance(splits, Mapping):
            self.splits = splits
        self.keeps_frames = hasattr(dataset, "expect") and bool(self.image_keys)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(cast(Sized, self.dataset))

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return one sample."""
        sample: dict[str, Any] = self.dataset[index]
        return sample

    def __getitems__(self, indices: Sequence[int] | np.ndarray) -> dict[str, Any]:
        """Return the samples `indices` `(B,)` as one batch.

        Raises:
            DatasetError: they are not alike, or hold something else than tensors and numbers.
        """
        numbers = np.asarray(indices, np.int64).tolist()
        whole = getattr(self.dataset, "__getitems__", None)
        fetched = [self.dataset[i] for i in numbers] if whole is None else whole(numbers)
        if isinstance(fetched, dict):
            return Samples(fetched)
        try:
            return Samples(default_collate(fetched))
        except (TypeError, RuntimeError, KeyError) as error:
            reason = first_line(error)
            raise DatasetError(
                f"samples of {type(self.dataset).__name__} cannot be put together into a batch: {reason}; "
                "all must hold tensors of the same names and shapes"
            ) from error

    @property
    def samples_per_epoch(self) -> int:
        """Number of samples in an epoch."""
        own = getattr(self.dataset, "samples_per_epoch", None)
        return len(self) if own is None else own

    @property
    def episode_index(self) -> np.ndarray | None:
        """Number of every sample's episode, if the dataset tells it."""
        return getattr(self.dataset, "episode_index", None)
