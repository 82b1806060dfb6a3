"""Several datasets as one, drawn by weight, each sample marked with where it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from trainer.data.fetch import fetch_batch
from trainer.data.mixture_columns import Fetched, mixture_columns
from trainer.data.normalization import DATASET_INDEX
from trainer.data.order import epoch_order, shuffled
from trainer.data.statistics import Stats, mixture_key

Batch = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """One dataset of a mixture.

    Attributes:
        name: what it is called, in statistics, metrics and messages.
        dataset: a torch Dataset with a length, a batch at a time or not.
        weight: its share of the samples is this over the sum of all weights.
        norm_stats: feature → statistic → array, or None.
    """

    name: str
    dataset: Dataset[Any]
    weight: float = 1.0
    norm_stats: Mapping[str, Mapping[str, Any]] | None = None


class MixtureDataset(Dataset[Batch]):
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
        samples_per_epoch: N.
        image_keys: the features that are camera frames.

    Args:
        parts: the datasets, with names of their own; the first is the one that a robot is taken to be, unless
            another is named.
        pad: fill up what differs, instead of refusing it.
        samples_per_epoch: N; the number of all samples if not given.

    Raises:
        MixtureError: features differ, and padding is not asked for or cannot help.
        ValueError: a weight is not above 0, two names are equal, a dataset is empty, or an epoch would hold
            nothing of it.
    """

    def __init__(
        self, parts: Sequence[Part], *, pad: bool = False, samples_per_epoch: int | None = None
    ) -> None:
        assert parts, "a mixture of nothing"
        self.parts = tuple(parts)
        self._pad = pad
        self.names = tuple(part.name for part in parts)
        if len(set(self.names)) < len(self.names):
            raise ValueError(
                f"the datasets of a mixture have names of their own, not {', '.join(self.names)}"
            )
        self._lengths = np.array([len(cast(Sized, part.dataset)) for part in parts], np.int64)
        for part, length in zip(parts, self._lengths, strict=True):
            if not 0 < part.weight < float("inf"):
                raise ValueError(f"the weight of '{part.name}' is {part.weight:g}; it must be above 0")
            if length == 0:
                raise ValueError(f"'{part.name}' has no samples")
        self._starts = np.cumsum(self._lengths) - self._lengths
        self.samples_per_epoch = int(self._lengths.sum()) if samples_per_epoch is None else samples_per_epoch
        self._drawn = _apportion([part.weight for part in parts], self.samples_per_epoch)
        for part, drawn in zip(parts, self._drawn, strict=True):
            if drawn == 0:
                raise ValueError(
                    f"of {self.samples_per_epoch} samples in an epoch, a weight of {part.weight:g} gives "
                    f"'{part.name}' none"
                )
        own_keys = [getattr(part.dataset, "image_keys", ()) for part in parts]
        self.image_keys = tuple(dict.fromkeys(key for keys in own_keys for key in keys))
        self.concurrent_reads = all(getattr(part.dataset, "concurrent_reads", False) for part in parts)
        samples = {part.name: fetch_batch(part.dataset, np.zeros(1, np.int64)) for part in parts}
        self._columns = mixture_columns(samples, self.image_keys, pad)

    def __len__(self) -> int:
        """Return the number of different samples; an epoch may hold more or fewer."""
        return int(self._lengths.sum())

    def with_parts(self, parts: Sequence[Part]) -> MixtureDataset:
        """Return the same mixture of other samples, such as of some of the episodes.

        An epoch is shorter as the samples are fewer.
        """
        share = sum(len(cast(Sized, part.dataset)) for part in parts) / len(self)
        samples = max(len(parts), round(self.samples_per_epoch * share))
        return MixtureDataset(parts, pad=self._pad, samples_per_epoch=samples)

    def epoch_order(self, seed: int, epoch: int) -> np.ndarray:
        """Return the samples of an epoch in their order, int64 `(samples_per_epoch,)`."""
        drawn = [
            start + _drawn_samples(seed, place, int(length), epoch * int(count), int(count))
            for place, (start, length, count) in enumerate(
                zip(self._starts, self._lengths, self._drawn, strict=True)
            )
        ]
        return np.concatenate(drawn)[epoch_order(seed, epoch, self.samples_per_epoch)]

    def __getitem__(self, index: int) -> Batch:
        """Return one sample."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"there is no sample {index} among {len(self)}")
        return {key: value[0] for key, value in self.__getitems__([index % len(self)]).items()}

    def __getitems__(self, indices: Sequence[int] | np.ndarray | Tensor) -> Batch:
        """Return the samples `indices` `(B,)` as one batch; each dataset is asked once for all of its own."""
        rows = np.asarray(indices, dtype=np.int64)
        which = np.searchsorted(self._starts, rows, side="right") - 1
        fetched = []
        for place in np.unique(which).tolist():
            own = np.flatnonzero(which == place)
            part = fetch_batch(self.parts[place].dataset, rows[own] - self._starts[place])
            fetched.append(Fetched(self.names[place], torch.from_numpy(own), part))
        batch: Batch = {}
        for column in self._columns:
            batch.update(column.gather(fetched, len(rows)))
        batch[DATASET_INDEX] = torch.from_numpy(which)
        return batch

    def expect(self, samples: np.ndarray, memory: int) -> None:
        """Tell each dataset which of its samples will be read, and its memory.

        The memory is shared out as the samples of an epoch are, among the datasets that have frames.

        Args:
            samples: int64 `(L,)`, in their order.
            memory: bytes for decoded frames.
        """
        seeing = [
            place
            for place, part in enumerate(self.parts)
            if getattr(part.dataset, "image_keys", ()) and hasattr(part.dataset, "expect")
        ]
        which = np.searchsorted(self._starts, samples, side="right") - 1
        for place in seeing:
            own = samples[which == place] - self._starts[place]
            share = int(memory * self._drawn[place] / self._drawn[seeing].sum())
            cast(Any, self.parts[place].dataset).expect(own, share)

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
        for part, drawn, length in zip(self.parts, self._drawn.tolist(), self._lengths.tolist(), strict=True):
            own = part.dataset.facts() if hasattr(part.dataset, "facts") else {}
            mixed = {
                "name": part.name,
                "weight": part.weight,
                "share": drawn / self.samples_per_epoch,
                "samples_per_epoch": drawn,
                "passes_per_epoch": drawn / length,
            }
            datasets.append({**own, **mixed})
        first = {key: value for key, value in datasets[0].items() if key in ("fps", "features", "windows")}
        return {"repo_id": " + ".join(self.names), **first, **_totals(datasets), "datasets": datasets}


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
