"""What a dataset plugin provides, and what a dataset may tell beyond its samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from trainer.utils.samples import Samples
from trainer.utils.shuffle import epoch_order


class TrainingDataset(Dataset[dict[str, Any]]):
    """A dataset with everything that training may ask of it.

    A subclass has `__len__` and, of `__getitem__` (one sample) and `__getitems__` (a batch at a time, which
    is faster), at least one. The rest has defaults and is overridden where a dataset has more to say. A torch
    Dataset that is no subclass is adapted (`trainer.data.adapted`), whatever of this it has.

    Attributes:
        image_keys: the features that are camera frames, uint8 `(B, …, 3, H, W)` in a batch.
        columns: what is in a batch, a `trainer.data.columns.Column` under each name; None if the dataset does
            not tell, and `facts()` or the names decide.
        concurrent_reads: a sample depends on its index alone, and several threads may read at once. Only such
            a dataset is read beside the step without worker processes.
        keeps_frames: `expect` is worth calling: decoded frames are kept in the memory that it gives.
        splits: name of a part → its episodes, as numbers or as a range (`"0:50"`); a configuration may give
            the name for them.
        repeats_samples: an epoch may hold a sample more than once, or leave some out, on purpose.
    """

    image_keys: Sequence[str] = ()
    columns: Mapping[str, Any] | None = None
    concurrent_reads: bool = False
    keeps_frames: bool = False
    splits: Mapping[str, Any] = MappingProxyType({})
    repeats_samples: bool = False

    def __len__(self) -> int:
        """Return the number of samples (N)."""
        raise NotImplementedError(f"{type(self).__name__} has no __len__")

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return one sample: feature → value, without a leading dimension."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"there is no sample {index} among {len(self)}")
        batch = self.__getitems__(np.array([index % len(self)]))
        return {key: value[0] for key, value in batch.items()}

    def __getitems__(self, indices: Sequence[int] | np.ndarray) -> dict[str, Any]:
        """Return the samples `indices` `(B,)` as one batch: feature → tensor `(B, …)` or list of B."""
        if type(self).__getitem__ is TrainingDataset.__getitem__:
            raise NotImplementedError(f"{type(self).__name__} has neither __getitem__ nor __getitems__")
        return Samples(default_collate([self[int(index)] for index in indices]))

    @property
    def samples_per_epoch(self) -> int:
        """Number of samples in an epoch; N by default."""
        return len(self)

    def epoch_order(self, seed: int, epoch: int) -> np.ndarray:
        """Return the samples of an epoch in their order, int64 `(samples_per_epoch,)`; any may come again.

        It is a pure function, so that ranks agree and an interrupted run goes on where it stopped. By default
        every sample comes once, the first `samples_per_epoch` of them if that is fewer.
        """
        return epoch_order(seed, epoch, len(self))[: self.samples_per_epoch]

    @property
    def has_own_order(self) -> bool:
        """Whether an epoch is anything else than every sample once, shuffled."""
        default = getattr(self.epoch_order, "__func__", None) is TrainingDataset.epoch_order
        return not default or self.samples_per_epoch != len(self)

    @property
    def episode_index(self) -> np.ndarray | None:
        """Number of every sample's episode, int64 `(N,)`; None if there are none to keep for validation."""
        return None

    def feature_values(self, feature: str) -> np.ndarray | None:
        """Return all values of a feature of numbers, one row a frame `(N, *shape)`, where they are at hand.

        Args:
            feature: what it is called in the statistics.
        """
        return None

    def expect(self, samples: np.ndarray, memory: int) -> None:
        """Take over which samples will be read, at the beginning of an epoch, if `keeps_frames`.

        Args:
            samples: int64 `(L,)` in their order: those of this epoch and of the next one.
            memory: bytes that decoded frames may take; no value depends on it.
        """

    def of_robot(self, samples: dict[str, Any]) -> dict[str, Any]:
        """Return raw samples that the robot of this dataset has collected as the dataset has its own.

        Args:
            samples: feature → tensor `(B, …)` or list of B.
        """
        return samples

    def batch_metrics(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return what is logged of every batch beside the trainer's metrics: name → scalar on its device."""
        return {}

    def facts(self) -> dict[str, Any]:
        """Return what a person wants to know of the data, ready for JSON.

        Of these, `windows` (feature → offsets in frames) and `features` (name → `{"shape": …}`) tell a robot
        what to measure; `episodes`, `frames`, `fps`, `tasks` and others are shown.
        """
        return {}


@runtime_checkable
class DatasetFactory(Protocol):
    """Builds a dataset from the `data.datamodule.params` of an experiment.

    A factory may have an attribute `may_change`, the names of parameters that do not change the samples: a
    run may be taken up with other values of these.
    """

    def build(self, opt_params: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
        """Build the dataset.

        Args:
            opt_params: `local_rank`, `dist_enabled`, `save_dir`, `search_paths`, the folders in which
                relative paths are looked up, nearest first, and `project`, below which things are written.
            params: the parameters from the YAML. Where the factory declares a class `parameters`, they are
                checked against and converted by it. The constructor gets those that it names, converted;
                of others nothing is known, and they stand here as they are written.

        Returns:
            `{"dataset": TrainingDataset or torch Dataset, "norm_stats": {feature: {"mean": array, "std":
            array, …}}}`; `norm_stats` may be missing or None for data that needs no normalization.
            `without_effect`, if it is there, maps settings outside of `params` that do nothing for this
            dataset, such as `data.frame_memory`, to the reason.

        Raises:
            trainer.config.errors.ParameterError: a parameter cannot be used, and which.
        """
        ...
