"""Claims about augmentation: each part changes what it should, and only in training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.config.augmentation import AugmentationConfig, ColorJitterConfig
from trainer.data.augmentation import Augmentation
from trainer.data.columns import columns_of, observations_of, pictures_of
from trainer.data.images import is_image
from trainer.engine.proofs.claim import Claim, Fault, not_applicable
from trainer.engine.proofs.trial import Trial
from trainer.utils.random import AUGMENTATION, SampleRandom

ABOUT = "augmentation"
PATH = ("data", "augmentation")
GREY_LEVEL = 1 / 255
DRAWS = 4
"""Steps whose random numbers are tried: one draw may happen to change nothing."""


def augmentation_claims(trial: Trial) -> Iterator[Claim]:
    """Yield the claims about augmentation."""
    config = trial.config.data.augmentation
    if config is None:
        yield not_applicable(ABOUT, "each augmentation changes its inputs", "data.augmentation is not set")
    else:
        batch = trial.experiment.batches.example(trial.samples)
        for part, alone in _parts(config):
            yield _changes(trial, part, alone, batch)
        yield _of_the_run(trial, batch)
    yield _only_in_training(trial)


def _parts(config: AugmentationConfig) -> Iterator[tuple[tuple[str, ...], AugmentationConfig]]:
    """Yield the place of each part that is on, and a configuration of it alone."""
    off = {"color_jitter": None, "gaussian_blur": None, "random_shift": None, "observation_noise": 0.0}
    if config.color_jitter is not None:
        strengths = config.color_jitter.model_dump()
        asked = config.color_jitter.model_fields_set
        for name in (n for n, strength in strengths.items() if strength or n in asked):
            jitter = ColorJitterConfig(**{n: s if n == name else 0.0 for n, s in strengths.items()})
            yield ("color_jitter", name), config.model_copy(update={**off, "color_jitter": jitter})
    for name in ("gaussian_blur", "random_shift"):
        if getattr(config, name) is not None:
            yield (name,), config.model_copy(update={**off, name: getattr(config, name)})
    noise = config.observation_noise
    for name, std in noise.items() if isinstance(noise, dict) else ():
        yield ("observation_noise", name), config.model_copy(update={**off, "observation_noise": {name: std}})
    if not isinstance(noise, dict) and (noise or "observation_noise" in config.model_fields_set):
        yield ("observation_noise",), config.model_copy(update={**off, "observation_noise": noise})


def _changes(
    trial: Trial, part: tuple[str, ...], alone: AugmentationConfig, batch: Mapping[str, Any]
) -> Claim:
    columns, cameras = columns_of(trial.data.dataset), pictures_of(trial.data.dataset)
    measured = None if columns is None else [n for n in observations_of(columns) if not columns[n].is_picture]
    augmentation = Augmentation(alone, cameras, measured)
    seed = trial.config.run_seed
    draws = [augmentation(batch, SampleRandom(seed, step, stream=AUGMENTATION)) for step in range(DRAWS)]
    on_pictures = part[0] != "observation_noise"
    if on_pictures:
        what, unit, units, least = "pixels", GREY_LEVEL, "grey levels", 0.5 * GREY_LEVEL
        keys = [key for key, value in batch.items() if is_image(key, value, cameras)]
    else:
        what, unit, units, least = "observations", 1.0, "standard deviations", 0.0
        keys = [key for key in batch if any(_change(batch[key], draw[key]) > 0 for draw in draws)]
    text = f"{'.'.join(part)} changes {what}"
    where = (*PATH, *part)
    if not keys:
        message = f"it changes no {what}, so it has no effect"
        return Claim(ABOUT, text, f"no {what} change", faults=[Fault(where, message)])
    changes = {key: max(_change(batch[key], draw[key]) for draw in draws) for key in keys}
    faults = [
        Fault(where, f"it changes no pixel of '{key}' by half a grey level, so it has no effect")
        for key, change in changes.items()
        if on_pictures and change <= least
    ]
    changed = sum(_changed_samples(batch[key], draw[key], least) for draw in draws for key in keys)
    share = changed / (DRAWS * len(keys) * trial.samples)
    by = min(changes.values()) / unit
    shown = f"by up to {by:.3g} {units} or more in each of {len(keys)}, {share:.0%} of the samples"
    return Claim(ABOUT, text, shown, faults=faults[:1])


def _of_the_run(trial: Trial, batch: dict[str, Any]) -> Claim:
    """What the loop trains on is changed, and not only what an augmentation of our own would give."""
    changed = [
        key for key, value in trial.experiment.augmented(batch).items() if _change(batch.get(key), value) > 0
    ]
    faults = [] if changed else [Fault(PATH, "the batches of the training are not changed by it")]
    measured = f"{', '.join(changed) or 'nothing'} of the next batch"
    return Claim(ABOUT, "what is trained on is augmented", measured, faults=faults)


def _floats(value: Tensor) -> Tensor:
    return value.float() / 255 if value.dtype == torch.uint8 else value.float()


def _change(one: Any, other: Any) -> float:
    """Return the largest difference of two tensors; pictures count from 0 to 1."""
    if not isinstance(one, Tensor) or one.shape != other.shape or not one.numel():
        return 0.0
    return float((_floats(one) - _floats(other)).abs().max())


def _changed_samples(one: Tensor, other: Tensor, least: float) -> int:
    return int(((_floats(one) - _floats(other)).abs().flatten(1).amax(dim=1) > least).sum())


def _only_in_training(trial: Trial) -> Claim:
    """Whatever is not trained on is the same each time it is read."""
    text = "what is evaluated is not augmented"
    held_out = trial.data.held_out
    rows = np.arange(min(4, len(trial.data.dataset if held_out is None else held_out)))
    path = ("data", "datamodule")
    if held_out is None:
        twice = [trial.experiment.batches.example(len(rows)) for _ in range(2)]
        changed = _changed_keys(*twice)
        if changed:
            reason = f"the dataset changes '{changed[0]}' by itself, and nothing is kept to validate on"
            return not_applicable(ABOUT, text, reason)
        return Claim(ABOUT, text, "0 of the features differ when samples are read twice")
    assert trial.experiment.validation_data is not None
    changed = _changed_keys(*(trial.experiment.validation_data.sample(rows) for _ in range(2)))
    faults = [
        Fault(
            path,
            f"the dataset gives another '{key}' each time that a validation sample is read",
            "let it augment in training only: the validation episodes are of the same dataset",
        )
        for key in changed[:1]
    ]
    measured = f"{len(changed)} features differ when validation samples are read twice"
    return Claim(ABOUT, text, measured, faults=faults)


def _changed_keys(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return [
        key
        for key, value in one.items()
        if isinstance(value, Tensor) and not torch.equal(value.nan_to_num(), other[key].nan_to_num())
    ]
