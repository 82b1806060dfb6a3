"""Calling a dataset factory, and holding what it builds to its contract."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from trainer.config.errors import ParameterError
from trainer.config.parameters import own_parameters
from trainer.data.adapted import AdaptedDataset, as_training_dataset
from trainer.data.errors import DatasetError
from trainer.templates import TrainingDataset
from trainer.utils.seed import kept_random_state
from trainer.utils.text import what_it_is

_CONTRACT = 'its build must return {"dataset": a torch Dataset, "norm_stats": a dict or None}'


@dataclass(frozen=True)
class BuiltDataset:
    """What a dataset factory has built.

    Attributes:
        dataset: samples by number, each a dict.
        norm_stats: feature → name → array, or None.
        without_effect: setting → why it does nothing for this dataset.
    """

    dataset: TrainingDataset
    norm_stats: Mapping[str, Any] | None = None
    without_effect: Mapping[str, str] = field(default_factory=dict)


def build_dataset(
    key: str, factory: Any, opt_params: Mapping[str, Any], params: Mapping[str, Any]
) -> BuiltDataset:
    """Make a registered factory and let it build.

    A factory whose constructor takes arguments gets those of the parameters that it names.

    Args:
        key: its name in the registry.
        factory: the registered class.
        opt_params: what the framework tells it.
        params: its checked parameters.

    Raises:
        ParameterError: the factory refuses a parameter.
        DatasetError: it does not keep to its contract, or its files are wrong.
    """
    plugin = f"dataset_builder '{key}'"
    own = own_parameters(factory, params)
    try:
        inspect.signature(factory).bind(**own)
    except TypeError as error:
        raise ParameterError("", f"{plugin} cannot be made: {error}") from None
    built = factory(**own).build(dict(opt_params), dict(params))
    found = _taken_apart(plugin, built)
    _check_samples(plugin, found)
    return found


def _taken_apart(plugin: str, built: Any) -> BuiltDataset:
    norm_stats: Any = None
    without_effect: Mapping[str, str] = {}
    if isinstance(built, Mapping):
        unknown = [k for k in built if k not in ("dataset", "norm_stats", "without_effect")]
        if "dataset" not in built or unknown:
            given = ", ".join(map(str, built)) or "nothing"
            raise DatasetError(f"{plugin} returned a dict with {given}; {_CONTRACT}")
        dataset, norm_stats = built["dataset"], built.get("norm_stats")
        without_effect = built.get("without_effect") or {}
    elif isinstance(built, Dataset):
        dataset = built
    else:
        raise DatasetError(f"{plugin} returned {what_it_is(built)}; {_CONTRACT}")
    if isinstance(dataset, IterableDataset):
        raise DatasetError(
            f"{plugin} built the iterable dataset {type(dataset).__name__}; the order of samples is drawn "
            "here, so it must give them by number (__len__ and __getitem__)"
        )
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        kind = type(dataset).__name__
        raise DatasetError(
            f"{plugin} built a {kind}, which does not give samples by number (__len__ and __getitem__)"
        )
    return BuiltDataset(as_training_dataset(dataset), norm_stats, without_effect)


def _check_samples(plugin: str, found: BuiltDataset) -> None:
    """Look at one sample, and at the statistics beside it."""
    stats = found.norm_stats
    if stats is not None and not (
        isinstance(stats, Mapping) and all(isinstance(one, Mapping) for one in stats.values())
    ):
        raise DatasetError(
            f"{plugin} returned a {type(stats).__name__} for norm_stats; it must be "
            '{feature: {"mean": array, "std": array, …}}'
        )
    if len(found.dataset) == 0:
        return
    with kept_random_state():
        one = _first_sample(plugin, found.dataset)
    for key, values in (stats or {}).items():
        if not isinstance(one.get(key), Tensor):
            continue
        shape = tuple(one[key].shape[1:])
        for name in ("mean", "std", "min", "max"):
            given = np.asarray(values.get(name, 0.0))
            if given.dtype.kind not in "biuf" or not np.isfinite(given).all():
                raise DatasetError(
                    f"{plugin}: the {name} of '{key}' in norm_stats is not made of finite numbers"
                )
            width = given.shape
            if not _broadcasts(width, shape):
                raise DatasetError(
                    f"{plugin}: the {name} of '{key}' in norm_stats has shape {width}, but in a sample "
                    f"'{key}' has shape {shape}"
                )


def _first_sample(plugin: str, dataset: TrainingDataset) -> Mapping[str, Any]:
    """Return the first sample as a batch of one."""
    plain = dataset.dataset if isinstance(dataset, AdaptedDataset) else dataset
    if not hasattr(plain, "__getitems__"):
        sample = plain[0]
        if not isinstance(sample, Mapping):
            raise DatasetError(
                f"{plugin}: a sample of {type(plain).__name__} is a {type(sample).__name__}; it must be a "
                "dict of feature → tensor"
            )
    try:
        batch = dataset.__getitems__(np.zeros(1, np.int64))
    except DatasetError as error:
        raise DatasetError(f"{plugin}: {error}") from error
    if not isinstance(batch, Mapping):
        raise DatasetError(
            f"{plugin}: a batch of {type(plain).__name__} is a {type(batch).__name__}; it must be a dict "
            "of feature → tensor"
        )
    return batch


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(shape, to) == to
    except ValueError:
        return False
