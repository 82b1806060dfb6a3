"""`mixture_dataset_factory`: several datasets, of any factories, drawn by weight."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import PurePath
from typing import Any, Literal, get_args

from model_constructor.util.suggest import closest

from trainer.config.errors import ParameterError
from trainer.data.errors import DatasetError
from trainer.data.mixture import MixtureDataset, Part
from trainer.data.mixture_columns import MixtureError
from trainer.registry import DATASET_BUILDER_REGISTRY

DifferentFeatures = Literal["refuse", "pad"]
MIXTURE = "mixture_dataset_factory"
_ENTRY = ("type", "params", "weight", "name")


@dataclass(frozen=True)
class MixtureDatasetParams:
    """The parameters under `data.datamodule.params`.

    Attributes:
        datasets: for each dataset `type` and `params`, as they would stand under `data.datamodule` alone;
            `weight` (1 if not given): its share of the samples is this over the sum of all; and `name`
            (its `repo_id`, or the last part of its `root`, if not given). A robot that names no dataset is
            taken to be that of the first.
        different_features: what to do where datasets have not the same features: `refuse` them, or `pad`
            what a sample lacks with zeros and flag it.
        samples_per_epoch: samples in an epoch; as many as all datasets have if not given.
        task_name: project name for the tracker.
    """

    datasets: list[dict[str, Any]]
    different_features: DifferentFeatures = "refuse"
    samples_per_epoch: int | None = None
    task_name: str | None = None


@DATASET_BUILDER_REGISTRY.register(MIXTURE)
class MixtureDatasetFactory:
    """Builds a `MixtureDataset`, each sample of which is normalized by the statistics of its own dataset."""

    parameters = MixtureDatasetParams

    def build(self, opt_params: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
        """Build every dataset by its own factory and mix them.

        Args:
            opt_params: handed on to the factories.
            params: the fields of `MixtureDatasetParams`.

        Returns:
            `dataset`, a `MixtureDataset`, and `norm_stats`, the statistics of all under `<name>/<feature>`.

        Raises:
            ParameterError: a parameter is unknown or cannot be used, a factory refuses one of its own, or two
                datasets do not go together.
        """
        chosen = _parse(params)
        parts = [_build_part(i, entry, opt_params) for i, entry in enumerate(chosen.datasets)]
        for i, part in enumerate(parts):
            if part.name in [other.name for other in parts[:i]]:
                raise ParameterError(
                    f"datasets.{i}", f"there is a dataset '{part.name}' already", "give it a name of its own"
                )
        try:
            mixture = MixtureDataset(
                parts,
                pad=chosen.different_features == "pad",
                samples_per_epoch=chosen.samples_per_epoch,
            )
            return {"dataset": mixture, "norm_stats": mixture.norm_stats()}
        except MixtureError as problem:
            hint = (
                "name features that both have, or set different_features: pad"
                if problem.fits_padded
                else None
            )
            raise ParameterError("datasets", str(problem), hint) from None
        except ValueError as problem:
            raise ParameterError("datasets", str(problem)) from None


def _parse(params: Mapping[str, Any]) -> MixtureDatasetParams:
    """Check names, types and ranges; the engine does so too, with positions, but not every caller is it."""
    names = [field.name for field in fields(MixtureDatasetParams)]
    for name in params:
        _check_name(str(name), names, str(name))
    if not isinstance(params.get("datasets"), list) or not params["datasets"]:
        raise ParameterError("datasets", "must be a list of datasets, each with its type and params")
    chosen = MixtureDatasetParams(**params)
    if chosen.different_features not in get_args(DifferentFeatures):
        known = " or ".join(get_args(DifferentFeatures))
        raise ParameterError("different_features", f"must be {known}, it is {chosen.different_features!r}")
    count = chosen.samples_per_epoch
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
        raise ParameterError("samples_per_epoch", f"must be a whole number of at least 1, it is {count!r}")
    if chosen.task_name is not None and not isinstance(chosen.task_name, str):
        raise ParameterError("task_name", f"must be a text, it is {chosen.task_name!r}")
    return chosen


def _check_name(name: str, known: Iterable[str], param: str) -> None:
    names = list(known)
    if name not in names:
        near = closest(name, names)
        hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(names)}"
        raise ParameterError(param, "unknown parameter", hint)


def _build_part(place: int, entry: Any, opt_params: dict[str, Any]) -> Part:
    """Build one dataset; what its factory refuses is placed where it stands in the list."""
    here = f"datasets.{place}"
    if not isinstance(entry, Mapping):
        raise ParameterError(here, f"must be a mapping of {', '.join(_ENTRY)}, it is {entry!r}")
    for key in entry:
        _check_name(str(key), _ENTRY, f"{here}.{key}")
    params, weight = entry.get("params") or {}, entry.get("weight", 1.0)
    if not isinstance(params, Mapping):
        raise ParameterError(f"{here}.params", f"must be a mapping, it is {params!r}")
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
        raise ParameterError(f"{here}.weight", f"must be a number above 0, it is {weight!r}")
    factory = _factory(entry.get("type"), here)
    if hasattr(factory, "parameters"):
        _check_params(params, factory.parameters, f"{here}.params")
    name = _name(place, entry, params)
    try:
        built = factory().build(opt_params, params=dict(params))
    except ParameterError as problem:
        param = f"{here}.params.{problem.param}" if problem.param else f"{here}.params"
        raise ParameterError(param, problem.message, problem.hint) from None
    except DatasetError as problem:
        raise ParameterError(here, str(problem)) from None
    built = built if isinstance(built, dict) else {"dataset": built}
    return Part(name, built["dataset"], float(weight), built.get("norm_stats"))


def _check_params(params: Mapping[str, Any], target: Callable[..., Any], here: str) -> None:
    """Check names, as the engine does for a dataset that stands alone."""
    accepted = inspect.signature(target).parameters
    for name in params:
        _check_name(str(name), accepted, f"{here}.{name}")
    for name, one in accepted.items():
        if one.default is one.empty and name not in params:
            raise ParameterError(f"{here}.{name}", "this key is required")


def _factory(key: Any, here: str) -> Any:
    registered = DATASET_BUILDER_REGISTRY.keys()
    known = [name for name in registered if name != MIXTURE]
    if not isinstance(key, str) or key not in known:
        near = closest(key, known) if isinstance(key, str) else []
        hint = f"did you mean '{near[0]}'?" if near else f"registered: {', '.join(known) or 'nothing'}"
        what = (
            "a mixture cannot hold mixtures"
            if key == MIXTURE
            else f"no dataset_builder is registered as {key!r}"
        )
        raise ParameterError(f"{here}.type", what, hint)
    return DATASET_BUILDER_REGISTRY.get(key)


def _name(place: int, entry: Mapping[str, Any], params: Mapping[str, Any]) -> str:
    given = entry.get("name")
    if given is not None:
        if not isinstance(given, str) or not given:
            raise ParameterError(f"datasets.{place}.name", f"must be a text, it is {given!r}")
        return given
    root = params.get("root")
    return str(params.get("repo_id") or (PurePath(str(root)).name if root else "") or f"dataset {place + 1}")
