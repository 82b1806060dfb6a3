"""Claims about what comes out of a dataset: finite, in its range, and as its statistics say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.data.batch_path import BatchPath
from trainer.data.columns import pictures_of
from trainer.data.images import is_image
from trainer.engine.build_data import Data
from trainer.engine.check import DATAMODULE
from trainer.engine.proofs.claim import Claim, Fault, not_applicable
from trainer.templates import TrainingDataset

ABOUT = "data"
SAMPLES, WITH_PICTURES = 512, 24
"""Samples that are looked at, of a dataset without and with pictures."""


def some_samples(dataset: TrainingDataset) -> np.ndarray:
    """Return the indices of samples spread over a dataset, in order."""
    wanted = min(WITH_PICTURES if pictures_of(dataset) else SAMPLES, len(dataset))
    return np.linspace(0, len(dataset) - 1, wanted).round().astype(np.int64)


def data_claims(data: Data) -> Iterator[Claim]:
    """Yield the claims about the samples of a run."""
    rows = some_samples(data.dataset)
    raw = dict(data.dataset.__getitems__(rows))
    ready = BatchPath(data.normalizer, cameras=pictures_of(data.dataset))(raw)
    yield _finite(ready)
    yield _pictures(data, ready)
    yield from _statistics(data, raw, ready)
    yield _different(rows, raw)


def _finite(ready: Mapping[str, Any]) -> Claim:
    faults, count = [], 0
    for key, value in ready.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            count += value.numel()
            wrong = int((~value.isfinite()).sum())
            if wrong:
                faults.append(Fault(DATAMODULE, f"'{key}' has {wrong} numbers that are NaN or infinite"))
    return Claim(ABOUT, "every number is finite", f"{count:,} numbers", faults=faults)


def _pictures(data: Data, ready: Mapping[str, Any]) -> Claim:
    text = "pictures reach the policy as floats in [0, 1]"
    cameras = pictures_of(data.dataset)
    faults, ranges = [], []
    for key, value in ready.items():
        if not isinstance(value, Tensor):
            continue
        if is_image(key, value, cameras) and value.numel():
            low, high = float(value.min()), float(value.max())
            ranges.append(f"{low:.3g} to {high:.3g}")
            if not value.is_floating_point() or low < 0 or high > 1:
                message = f"the pictures '{key}' are {_type(value)} from {low:.3g} to {high:.3g}"
                faults.append(Fault(DATAMODULE, message, "give uint8 frames, or floats in [0, 1]"))
            elif low == high:
                faults.append(Fault(DATAMODULE, f"all pixels of the pictures '{key}' are {low:.3g}"))
        elif value.dtype == torch.uint8 and value.ndim >= 4:
            message = f"'{key}' looks like pictures {tuple(value.shape[1:])} of uint8, but is no camera"
            hint = "name it in the dataset's image_keys, so that it becomes floats in [0, 1] and is augmented"
            faults.append(Fault(DATAMODULE, message, hint))
    if not ranges and not faults:
        return not_applicable(ABOUT, text, "there are no pictures")
    return Claim(ABOUT, text, ", ".join(ranges), faults=faults)


def _type(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _statistics(data: Data, raw: Mapping[str, Any], ready: Mapping[str, Any]) -> Iterator[Claim]:
    """Yield, of every feature that is normalized, whether its samples come out as its mode says."""
    if not data.normalizer.modes:
        yield not_applicable(ABOUT, "the statistics fit the data", "nothing is normalized")
    for key, mode in data.normalizer.modes.items():
        value, before = ready.get(key), raw.get(key)
        if not isinstance(value, Tensor) or not isinstance(before, Tensor) or not value.is_floating_point():
            continue
        width = before.shape[-1] if before.ndim > 1 else 1
        values = _own(key, value[..., :width], ready).double()
        yield _fits(key, mode, values, _own(key, before, ready).double())


def _own(key: str, value: Tensor, ready: Mapping[str, Any]) -> Tensor:
    """Return the numbers `(N, D)` of what is no padding."""
    flags = ready.get(f"{key}_is_pad")
    flat = value.reshape(-1, value.shape[-1]) if value.ndim > 1 else value[:, None]
    if isinstance(flags, Tensor) and flags.numel() == len(flat):
        return flat[~flags.reshape(-1).bool()]
    return flat


def _fits(key: str, mode: str, values: Tensor, before: Tensor) -> Claim:
    text = f"the statistics of '{key}' fit the data ({mode})"
    low, high = values.min(dim=0).values, values.max(dim=0).values
    moves = high > low
    if not len(values) or not moves.any():
        return not_applicable(ABOUT, text, "it is constant in the samples that were looked at")
    mean, std = values.mean(dim=0), values.std(dim=0)
    if mode == "mean_std":
        # A few samples of a feature that seldom moves may be far from what all of them are.
        loose = 1.0 if len(values) >= SAMPLES else 2.0
        wrong = (mean.abs() > loose) | (std > 4 * loose) | ((std < 0.1 / loose**3) & moves)
        seen = "mean {mean:.2g} and standard deviation {std:.2g}, not about 0 and 1"
    else:
        beyond = 1.01 if mode == "min_max" else 8.0
        wrong = (low < -beyond) | (high > beyond) | ((high - low < 0.1) & moves)
        seen = "the range {low:.2g} to {high:.2g}, not about -1 to 1"
    measured = (
        f"means to {mean[moves].abs().max():.2g}, deviations {std[moves].min():.2g} to {std[moves].max():.2g}"
        if mode == "mean_std"
        else f"{float(low.min()):.3g} to {float(high.max()):.3g}"
    )
    faults = []
    if mode == "mean_std" and _is_standard(before, moves) and not _is_standard(values, moves):
        message = f"'{key}' comes out of the dataset normalized, and its statistics normalize it once more"
        hint = "give it in its own units, or data.normalization: none"
        faults.append(Fault(DATAMODULE, message, hint))
    elif wrong.any():
        at = int(wrong.nonzero()[0])
        facts = {
            "mean": float(mean[at]),
            "std": float(std[at]),
            "low": float(low[at]),
            "high": float(high[at]),
        }
        message = f"normalized by its statistics, dimension {at} of '{key}' has {seen.format(**facts)}"
        hint = "are the statistics of this data, and is it normalized once?"
        faults.append(Fault(DATAMODULE, message, hint))
    return Claim(ABOUT, text, measured, faults=faults)


def _is_standard(values: Tensor, moves: Tensor) -> bool:
    """Say whether what moves has mean 0 and standard deviation 1, nearly."""
    mean, std = values.mean(dim=0)[moves], values.std(dim=0)[moves]
    return bool((mean.abs() < 0.15).all() and ((std - 1).abs() < 0.15).all())


def _different(rows: np.ndarray, raw: Mapping[str, Any]) -> Claim:
    """Different indices give different samples."""
    text = "different indices give different samples"
    tensors = [
        v.reshape(len(rows), -1) for v in raw.values() if isinstance(v, Tensor) and len(v) == len(rows)
    ]
    seen: dict[bytes, int] = {}
    repeated = 0
    example: tuple[int, int] | None = None
    for place, row in enumerate(rows.tolist()):
        content = b"".join(tensor[place].contiguous().numpy().tobytes() for tensor in tensors)
        if content in seen:
            repeated += 1
            example = example or (seen[content], row)
        else:
            seen[content] = row
    measured = f"{repeated} of {len(rows)} samples are copies of others"
    faults = []
    # Where a robot stands still, samples without an index are alike.
    if example is not None and repeated > 0.2 * len(rows):
        one, other = example
        message = f"samples {one} and {other} are the same, and {repeated} of {len(rows)} are copies"
        faults.append(Fault(DATAMODULE, message, "does its __getitem__ use its index?"))
    return Claim(ABOUT, text, measured, faults=faults)
