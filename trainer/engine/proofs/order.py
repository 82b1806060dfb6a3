"""Claims about the order of an epoch: every sample once, over all ranks and workers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.data.batch_path import BatchPath
from trainer.data.columns import pictures_of
from trainer.data.loader import BatchLoader
from trainer.data.order import GlobalBatchSampler
from trainer.engine.build_data import Data
from trainer.engine.check import DATAMODULE, CheckedConfig
from trainer.engine.proofs.claim import Claim, Fault, not_applicable

ABOUT = "order"
_COMPARED, _SAMPLES, _WORKERS = 3, 4, 2
"""Batches, samples of each, and worker processes of the comparison with and without workers."""


def order_claims(checked: CheckedConfig, data: Data, ranks: int) -> Iterator[Claim]:
    """Yield the claims about which samples come when.

    Args:
        checked: the configuration.
        data: what it trains on.
        ranks: that would train.
    """
    orders = [_epoch(checked, data, ranks, epoch) for epoch in (0, 1)]
    yield _once(data, orders[0], ranks, checked.config.data.num_workers)
    yield _again(checked, data, orders, ranks)
    yield _workers(checked, data)


def _epoch(checked: CheckedConfig, data: Data, ranks: int, epoch: int) -> np.ndarray:
    """Return the samples of an epoch `(ranks, micro-batches of it, B)`, as each rank draws them."""
    config = checked.config
    samplers = [
        GlobalBatchSampler(
            data.dataset.samples_per_epoch,
            config.data.batch_size,
            rank=rank,
            world_size=ranks,
            micro_batches=config.train.accumulate_grad_batches,
            seed=config.run_seed,
            order=data.dataset.epoch_order,
        )
        for rank in range(ranks)
    ]
    return np.stack([np.asarray(sampler.batches(epoch)) for sampler in samplers])


def _once(data: Data, drawn: np.ndarray, ranks: int, workers: int) -> Claim:
    text = "an epoch visits every sample once, over all ranks and workers"
    length = len(data.dataset)
    if drawn.min() < 0 or drawn.max() >= length:
        wrong = int(drawn.max() if drawn.max() >= length else drawn.min())
        message = f"the epoch_order of the dataset names sample {wrong}, and it has {length:,}"
        return Claim(ABOUT, text, f"sample {wrong} of {length:,}", faults=[Fault(DATAMODULE, message)])
    times = np.bincount(drawn.ravel(), minlength=length)
    visited, repeated = int((times > 0).sum()), int((times > 1).sum())
    left = data.dataset.samples_per_epoch - drawn.size
    where = f"{ranks} {'rank' if ranks == 1 else 'ranks'}, {workers} workers each"
    measured = f"{visited:,} of {length:,} samples, {repeated:,} of them more than once; {where}"
    if left:
        measured += f"; the last {left:,} of the order fill no batch"
    if data.dataset.repeats_samples:
        return not_applicable(ABOUT, text, f"the dataset draws by weight: {measured}")
    faults = []
    if repeated:
        message = (
            f"the epoch_order of the dataset gives {repeated:,} of its {length:,} samples more than once, "
            f"up to {int(times.max())} times, and leaves out {length - visited:,}"
        )
        hint = "give every sample once, or say that it is meant by repeats_samples = True"
        faults.append(Fault(DATAMODULE, message, hint))
    return Claim(ABOUT, text, measured, faults=faults)


def _again(checked: CheckedConfig, data: Data, orders: list[np.ndarray], ranks: int) -> Claim:
    text = "the order is the same for all who ask, and another in every epoch"
    asked = [data.dataset.epoch_order(checked.config.run_seed, 0) for _ in range(2)]
    same = float((orders[0] == orders[1]).mean())
    faults = []
    if not np.array_equal(asked[0], asked[1]):
        message = (
            "the epoch_order of the dataset gives another order each time it is asked for the same epoch"
        )
        hint = "let it follow from seed and epoch alone, or ranks train on the same samples"
        faults.append(Fault(DATAMODULE, message, hint))
    elif same > 0.9 and orders[0].size > 8:
        message = "the epoch_order of the dataset is the same in every epoch, so it does not shuffle"
        faults.append(Fault(DATAMODULE, message, "let it depend on the epoch"))
    measured = f"{same:.1%} of the places of epoch 2 hold the sample of epoch 1"
    return Claim(ABOUT, text, measured, faults=faults)


def _workers(checked: CheckedConfig, data: Data) -> Claim:
    """A worker process reads what this one reads."""
    text = "workers read the same samples"
    config = checked.config
    if not config.data.num_workers:
        return not_applicable(ABOUT, text, "data.num_workers is 0")
    loaders = [
        BatchLoader(
            data.dataset,
            batch_size=min(_SAMPLES, config.data.batch_size),
            path=BatchPath(data.normalizer, cameras=pictures_of(data.dataset)),
            seed=config.run_seed,
            num_workers=workers,
        )
        for workers in (0, min(_WORKERS, config.data.num_workers))
    ]
    here, again, there = (
        list(itertools.islice(loader.epoch(0), _COMPARED)) for loader in (loaders[0], *loaders)
    )
    if _differing(here, again):
        reason = f"the dataset draws at random: '{_differing(here, again)[0]}' differs each time it is read"
        return not_applicable(ABOUT, text, reason)
    differ = _differing(here, there)
    faults = []
    if differ:
        message = (
            f"worker processes give other numbers of '{differ[0]}' than the main process for the same samples"
        )
        hint = "does the dataset draw at random, or divide its samples by worker? The order does that already"
        faults.append(Fault(("data", "num_workers"), message, hint))
    measured = f"{_COMPARED} batches, {len(differ)} features differ"
    return Claim(ABOUT, text, measured, faults=faults)


def _differing(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the features that two sequences of batches do not have in common."""
    return sorted(
        {
            key
            for one, other in zip(ours, theirs, strict=True)
            for key, value in one.items()
            if isinstance(value, Tensor) and not torch.equal(value.nan_to_num(), other[key].nan_to_num())
        }
    )
