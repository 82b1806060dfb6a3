"""Several datasets as one, drawn by weight, each sample marked with where it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from trainer.data.adapted import as_training_dataset
from trainer.data.columns import Columns, columns_of, pictures_of, to_facts
from trainer.data.images import is_image
from trainer.data.mixture_columns import Fetched, mixture_columns
from trainer.data.normalization import DATASET_INDEX
from trainer.data.statistics import Stats, mixture_key
from trainer.templates import TrainingDataset
from trainer.utils.samples import Samples
from trainer.utils.shuffle import epoch_order, shuffled

Batch = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """One dataset of a mixture.

    Attributes:
        name: what it is called, in statistics, metrics and messages.
        dataset: a `TrainingDataset`, or a torch Dataset with a length, which the mixture adapts to one;
            its `batch_metrics` are not those of a mixture.
        weight: its share of the samples is this over the sum of all weights.
        norm_stats: feature → statistic → array, or None.
    """

    name: str
    dataset: Dataset[Any]
    weight: float = 1.0
    norm_stats: Mapping[str, Mapping[str, Any]] | None = None


class MixtureDataset(TrainingDataset):
    """The samples of several datasets, one dataset's after the other's; an epoch draws from each by weight.

    Of N samples in an epoch, dataset d gives n_d: N times its share, rounded so that they sum to N. It gives
    them in passes: each of its own samples once, in an order of the pass, before any comes again. Passes go
    on from one epoch to the next, so a small dataset is seen several times in an epoch, and of a large one
    every sample has its turn. Which samples an epoch holds is a pure function of seed and epoch.

    A batch has `dataset_index` int64 `(B,)`, the place of each sample's dataset in `names`. Episodes and
    frames (`episode_index`, `index`, `task_index`, …) are numbered as in their own dataset.

    Features may differ only where `pad` is set. Then what a sample's dataset lacks is zero: a missing feature
    whole, flagged in `<key>_is_pad` if it is a window, or the last dimensions of one that is wider elsewhere;
    `<key>_dim_is_pad` bool `(B, D)` flags these dimensions, cameras excepted.

    Attributes:
        names: the datasets, in the order of `dataset_index`.
        pad: whether what differs is filled up.
        image_keys: the features that are camera frames.
        columns: what the datasets say of their columns, of which the widest counts; None if one says nothing.

    Args:
        parts: the datasets, with names of their own; the first is the one that a robot is taken to be, unless
            another is named.
        pad: fill up what differs, instead of refusing it.
        samples_per_epoch: N; the number of all samples if not given.

    Raises:
        MixtureError: features differ, and padding is not asked for or cannot help.
        ValueError: a weight is not above 0, two names are equal, a dataset is empty or draws its samples by
            itself, or an epoch would hold nothing of it.
    """

    repeats_samples = True

    def __init__(
        self, parts: Sequence[Part], *, pad: bool = False, samples_per_epoch: int | None = None
    ) -> None:
        assert parts, "a mixture of nothing"
        self.parts = tuple(parts)
        self._datasets = [as_training_dataset(part.dataset) for part in self.parts]
        self.pad = pad
        self.names = tuple(part.name for part in parts)
        if len(set(self.names)) < len(self.names):
            raise ValueError(
                f"the datasets of a mixture have names of their own, not {', '.join(self.names)}"
            )
        self._lengths = np.array([len(dataset) for dataset in self._datasets], np.int64)
        for part, length in zip(parts, self._lengths, strict=True):
            if not 0 < part.weight < float("inf"):
                raise ValueError(f"the weight of '{part.name}' is {part.weight:g}; it must be above 0")
            if length == 0:
                raise ValueError(f"'{part.name}' has no samples")
        for name, dataset in zip(self.names, self._datasets, strict=True):
            if dataset.has_own_order:
                raise ValueError(
                    f"'{name}' draws its samples by itself (epoch_order or samples_per_epoch), which a "
                    "mixture does by weight; leave that to the mixture"
                )
        self._starts = np.cumsum(self._lengths) - self._lengths
        self._count = int(self._lengths.sum()) if samples_per_epoch is None else samples_per_epoch
        self._drawn = _apportion([part.weight for part in parts], self._count)
        for part, drawn in zip(parts, self._drawn, strict=True):
            if drawn == 0:
                raise ValueError(
                    f"of {self.samples_per_epoch} samples in an epoch, a weight of {part.weight:g} gives "
                    f"'{part.name}' none"
                )
        self.concurrent_reads = all(own.concurrent_reads for own in self._datasets)
        self.keeps_frames = any(own.keeps_frames for own in self._datasets)
        first = np.zeros(1, np.int64)
        samples = {
            name: own.__getitems__(first) for name, own in zip(self.names, self._datasets, strict=True)
        }
        cameras = [
            [key for key, value in sample.items() if is_image(key, value, pictures_of(own))]
            for sample, own in zip(samples.values(), self._datasets, strict=True)
        ]
        self.image_keys = tuple(dict.fromkeys(key for keys in cameras for key in keys))
        self.columns: Columns | None = _together([columns_of(own) for own in self._datasets])
        self._columns = mixture_columns(samples, self.image_keys, pad)

    def __len__(self) -> int:
        """Return the number of different samples; an epoch may hold more or fewer."""
        return int(self._lengths.sum())

    @property
    def samples_per_epoch(self) -> int:
        """Number of samples in an epoch (N)."""
        return self._count

    def with_parts(self, parts: Sequence[Part]) -> MixtureDataset:
        """Return the same mixture of other samples, such as of some of the episodes.

        An epoch is shorter as the samples are fewer.
        """
        share = sum(len(as_training_dataset(part.dataset)) for part in parts) / len(self)
        samples = max(len(parts), round(self.samples_per_epoch * share))
        return MixtureDataset(parts, pad=self.pad, samples_per_epoch=samples)

    def epoch_order(self, seed: int, epoch: int) -> np.ndarray:
        """Return the samples of an epoch in their order, int64 `(samples_per_epoch,)`."""
        drawn = [
            start + _drawn_samples(seed, place, int(length), epoch * int(count), int(count))
            for place, (start, length, count) in enumerate(
                zip(self._starts, self._lengths, self._drawn, strict=True)
            )
        ]
        return np.concatenate(drawn)[epoch_order(seed, epoch, self.samples_per_epoch)]

    def __getitems__(self, indices: Sequence[int] | np.ndarray | Tensor) -> Samples:
        """Return the samples `indices` `(B,)` as one batch; each dataset is asked once for all of its own."""
        rows = np.asarray(indices, dtype=np.int64)
        which = np.searchsorted(self._starts, rows, side="right") - 1
        fetched = []
        for place in np.unique(which).tolist():
            own = np.flatnonzero(which == place)
            part = self._datasets[place].__getitems__(rows[own] - self._starts[place])
            fetched.append(Fetched(self.names[place], torch.from_numpy(own), part))
        return self._joined(fetched, which)

    def of_robot(self, samples: Batch) -> Samples:
        """Return raw samples of the robot of the first dataset as the mixture has its own."""
        which = np.zeros(len(next(iter(samples.values()))), np.int64)
        return self._joined([Fetched(self.names[0], torch.arange(len(which)), samples)], which)

    def _joined(self, fetched: Sequence[Fetched], which: np.ndarray) -> Samples:
        batch: Batch = {}
        for column in self._columns:
            batch.update(column.gather(fetched, len(which)))
        batch[DATASET_INDEX] = torch.from_numpy(which)
        return Samples(batch)

    def feature_values(self, feature: str) -> np.ndarray | None:
        """Return all values of a feature of one dataset, `<dataset>/<feature>`."""
        name, _, own = feature.rpartition("/")
        return self._datasets[self.names.index(name)].feature_values(own) if name in self.names else None

    def expect(self, samples: np.ndarray, memory: int) -> None:
        """Tell each dataset which of its samples will be read, and its memory.

        The memory is shared out as the samples of an epoch are, among the datasets that keep frames.

        Args:
            samples: int64 `(L,)`, in their order.
            memory: bytes for decoded frames.
        """
        seeing = [place for place, own in enumerate(self._datasets) if own.keeps_frames]
        which = np.searchsorted(self._starts, samples, side="right") - 1
        for place in seeing:
            own = samples[which == place] - self._starts[place]
            share = int(memory * self._drawn[place] / self._drawn[seeing].sum())
            self._datasets[place].expect(own, share)

    def norm_stats(self) -> Stats | None:
        """Return the statistics of all datasets, under `<dataset>/<feature>`; None if none has any.

        Raises:
            ValueError: some datasets have statistics, others have none.
        """
        without = [part.name for part in self.parts if not part.norm_stats]
        if len(without) == len(self.parts):
            return None
        if without:
            others = [name for name in self.names if name not in without]
            raise ValueError(f"'{without[0]}' has no statistics, unlike '{others[0]}'")
        return {
            mixture_key(part.name, feature): {name: np.asarray(value) for name, value in values.items()}
            for part in self.parts
            for feature, values in (part.norm_stats or {}).items()
        }

    def batch_metrics(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return `share <dataset>`: the realised share of each in this batch, on its device."""
        index = batch[DATASET_INDEX]
        return {f"share {name}": (index == i).float().mean() for i, name in enumerate(self.names)}

    def facts(self) -> dict[str, Any]:
        """Return what a person wants to know, ready for JSON.

        Features, windows and rates are those of the first dataset, episodes and frames those of all; under
        `datasets` is each one's own `facts()` with its `name`, `weight`, `share` of an epoch,
        `samples_per_epoch`, and `passes_per_epoch`: how often an epoch goes through it.
        """
        datasets = []
        counts = zip(self._drawn.tolist(), self._lengths.tolist(), strict=True)
        for part, dataset, (drawn, length) in zip(self.parts, self._datasets, counts, strict=True):
            mixed = {
                "name": part.name,
                "weight": part.weight,
                "share": drawn / self.samples_per_epoch,
                "samples_per_epoch": drawn,
                "passes_per_epoch": drawn / length,
            }
            datasets.append({**dataset.facts(), **mixed})
        first = {key: value for key, value in datasets[0].items() if key in ("fps", "features", "windows")}
        described = {} if self.columns is None else {"columns": to_facts(self.columns)}
        named = {"repo_id": " + ".join(self.names), **first, **described}
        return {**named, **_totals(datasets), "datasets": datasets}


def _totals(datasets: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what adds up over datasets, as far as all of them tell."""
    totals: dict[str, Any] = {}
    if all("episodes" in one and "frames" in one for one in datasets):
        totals["episodes"] = sum(one["episodes"] for one in datasets)
        totals["frames"] = sum(one["frames"] for one in datasets)
        if all("episode_lengths" in one for one in datasets):
            totals["episode_lengths"] = {
                "min": min(one["episode_lengths"]["min"] for one in datasets),
                "mean": totals["frames"] / totals["episodes"],
                "max": max(one["episode_lengths"]["max"] for one in datasets),
            }
    totals["tasks"] = list(dict.fromkeys(task for one in datasets for task in one.get("tasks", ())))
    return totals


def _together(columns: Sequence[Columns | None]) -> Columns | None:
    """Return the columns of all datasets, each as wide as it is anywhere."""
    found: Columns = {}
    for own in columns:
        if own is None:
            return None
        for name, column in own.items():
            if name not in found or column.shape[-1:] > found[name].shape[-1:]:
                found[name] = column
    return found


def _apportion(weights: Sequence[float], total: int) -> np.ndarray:
    """Return whole numbers in proportion to the weights that sum to `total`, by largest remainders."""
    wanted = np.asarray(weights, np.float64) / float(np.sum(weights)) * total
    counts = np.floor(wanted).astype(np.int64)
    order = np.argsort(counts - wanted, kind="stable")
    counts[order[: total - int(counts.sum())]] += 1
    return counts


def _drawn_samples(seed: int, place: int, length: int, first: int, count: int) -> np.ndarray:
    """Return samples `first … first + count − 1` of a dataset's endless row of passes, int64 `(count,)`."""
    passes = range(first // length, -(-(first + count) // length))
    rows = [shuffled(length, seed, number, place + 1) for number in passes]
    skipped = first - passes.start * length
    return np.concatenate(rows)[skipped : skipped + count]
