"""`mixture_dataset_factory`: several datasets, of any factories, drawn by weight."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import Annotated, Any, Literal

from model_constructor import did_you_mean
from pydantic import Field

from trainer.config.errors import ParameterError
from trainer.config.parameters import (
    FRAMEWORK_ARGUMENTS,
    Positive,
    PositiveNumber,
    Text,
    checked_parameters,
    parse_parameters,
    receivers,
)
from trainer.config.schemas import ComponentSpec
from trainer.data.errors import DatasetError
from trainer.data.factory import build_dataset
from trainer.data.mixture import MixtureDataset, Part
from trainer.data.mixture_columns import MixtureError
from trainer.registry import DATASET_BUILDER_REGISTRY

DifferentFeatures = Literal["refuse", "pad"]
MIXTURE = "mixture_dataset_factory"


class MixtureEntry(ComponentSpec):
    """One dataset of a mixture."""

    weight: PositiveNumber = 1.0
    name: Text | None = None


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

    datasets: Annotated[list[MixtureEntry], Field(min_length=1)]
    different_features: DifferentFeatures = "refuse"
    samples_per_epoch: Positive | None = None
    task_name: Text | None = None


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
            ParameterError: parameters are unknown or cannot be used, factories refuse some of their own (all
                of these come together), or two datasets do not go together.
        """
        chosen = parse_parameters(MixtureDatasetParams, params)
        parts, wrong = [], []
        for i, entry in enumerate(chosen.datasets):
            try:
                parts.append(_build_part(i, entry, opt_params))
            except ParameterError as problem:
                wrong.append(problem)
        if wrong:
            raise ParameterError.together(wrong)
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


def _build_part(place: int, entry: MixtureEntry, opt_params: dict[str, Any]) -> Part:
    """Build one dataset; what its factory refuses is placed where it stands in the list."""
    here = f"datasets.{place}"
    registered = DATASET_BUILDER_REGISTRY.keys()
    known = [name for name in registered if name != MIXTURE]
    if entry.type not in known:
        what = f"no dataset_builder is registered as '{entry.type}'"
        if entry.type == MIXTURE:
            what = "a mixture cannot hold mixtures"
        raise ParameterError(f"{here}.type", what, did_you_mean(entry.type, known, "registered:", "nothing"))
    factory: Any = DATASET_BUILDER_REGISTRY.get(entry.type)
    try:
        params = entry.params
        if hasattr(factory, "parameters"):
            params = checked_parameters(params, receivers(factory), FRAMEWORK_ARGUMENTS)
        built = build_dataset(entry.type, factory, opt_params, params)
    except ParameterError as problem:
        raise problem.below(f"{here}.params") from None
    except DatasetError as problem:
        raise ParameterError(here, str(problem)) from None
    return Part(_name(place, entry), built.dataset, entry.weight, built.norm_stats)


def _name(place: int, entry: MixtureEntry) -> str:
    root = entry.params.get("root")
    last = PurePath(str(root)).name if root else ""
    return entry.name or str(entry.params.get("repo_id") or last or f"dataset {place + 1}")
