"""Building what a checked configuration trains on: dataset, statistics, normalizer, held-out samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.config.errors import ParameterError
from trainer.config.paths import project_folder
from trainer.config.schemas import ExperimentConfig
from trainer.config.validation import Issues
from trainer.data.augmentation import Augmentation
from trainer.data.columns import ACTION, columns_of, observations_of, pictures_of
from trainer.data.errors import DatasetError, EpisodesError
from trainer.data.factory import BuiltDataset, build_dataset
from trainer.data.normalization import Normalizer
from trainer.data.order import GlobalBatchSampler
from trainer.data.split import split_episodes
from trainer.engine.check import DATAMODULE, CheckedConfig, mapping_at
from trainer.engine.dimensions import check_dimensions
from trainer.engine.effects import idle_data_settings
from trainer.engine.inputs import check_same_robot
from trainer.registry import DATASET_BUILDER_REGISTRY
from trainer.templates import TrainingDataset


@dataclass(frozen=True, repr=False)
class Data:
    """What an experiment trains on.

    Attributes:
        dataset: the samples to train on.
        norm_stats: their statistics, or None.
        normalizer: what these and `data.normalization` amount to.
        steps_per_epoch: updates in an epoch.
        augmentation: what `data.augmentation` asks for, or None.
        held_out: the samples of the validation episodes, or None.
        warnings: sentences about settings that do nothing for this dataset.
    """

    dataset: TrainingDataset
    norm_stats: Mapping[str, Any] | None
    normalizer: Normalizer
    steps_per_epoch: int
    augmentation: Augmentation | None = None
    held_out: TrainingDataset | None = None
    warnings: Sequence[str] = ()

    def __repr__(self) -> str:
        """Return numbers of samples and the features, not pages of statistics."""
        held_out = f", {len(self.held_out):,} held out" if self.held_out is not None else ""
        features = ", ".join(f"{name} by {mode}" for name, mode in self.normalizer.modes.items()) or "nothing"
        return f"Data({len(self.dataset):,} samples{held_out}; {features} normalized)"


def build_data(checked: CheckedConfig, world_size: int = 1, local_rank: int = 0) -> Data:
    """Build the dataset of a checked configuration and what belongs to it.

    Args:
        checked: the configuration; it may still hold mistakes.
        world_size: number of ranks.
        local_rank: place among the ranks of this machine.

    Raises:
        ConfigError: every mistake of the configuration and of the data, each with its place.
    """
    issues, config = checked.issues.copy(), checked.as_read
    built = _build(issues, checked, world_size, local_rank)
    if built is None or config is None:
        issues.raise_if_any()
    assert built is not None
    assert config is not None
    dataset, held_out = _split(issues, config, built.dataset)
    normalizer = _normalizer(issues, config, built.norm_stats)
    augmentation = _augmentation(issues, config, dataset)
    steps_per_epoch = _steps_per_epoch(issues, config, dataset, world_size)
    check_same_robot(issues, config, checked.robots, dataset.facts(), [ACTION])
    check_dimensions(issues, checked, dataset)
    issues.raise_if_any()
    return Data(
        dataset=dataset,
        norm_stats=built.norm_stats,
        normalizer=normalizer,
        steps_per_epoch=steps_per_epoch,
        augmentation=augmentation,
        held_out=held_out,
        warnings=idle_data_settings(config, dataset, built.without_effect),
    )


def _build(issues: Issues, checked: CheckedConfig, world_size: int, local_rank: int) -> BuiltDataset | None:
    params = checked.parameters.get(DATAMODULE)
    if params is None:
        return None
    key = mapping_at(checked.located.data, *DATAMODULE)["type"]
    opt_params = {
        "local_rank": local_rank,
        "dist_enabled": world_size > 1,
        "save_dir": str(checked.run),
        "project": project_folder(checked.located.path),
        "search_paths": checked.located.search_paths((*DATAMODULE, "params", "root")),
    }
    try:
        return build_dataset(key, DATASET_BUILDER_REGISTRY.get(key), opt_params, params)
    except ParameterError as error:
        for one in error.all:
            below = tuple(int(k) if k.isdecimal() else k for k in one.param.split(".")) if one.param else ()
            issues.add((*DATAMODULE, "params", *below), one.message, one.hint)
    except DatasetError as error:
        issues.add(DATAMODULE, str(error))
    return None


def _split(
    issues: Issues, config: ExperimentConfig, dataset: TrainingDataset
) -> tuple[TrainingDataset, TrainingDataset | None]:
    """Return the samples to train on and those to validate on."""
    validation = config.data.validation
    if validation is None:
        return dataset, None
    try:
        return split_episodes(
            dataset, config.run_seed, fraction=validation.fraction, episodes=validation.episodes
        )
    except EpisodesError as error:
        issues.add(("data", "validation", "episodes"), error.message, error.hint)
        return dataset, None
    except DatasetError as error:
        issues.add(("data", "validation"), str(error))
        return dataset, None


def _normalizer(issues: Issues, config: ExperimentConfig, stats: Mapping[str, Any] | None) -> Normalizer:
    modes: Any = config.data.normalization
    try:
        return Normalizer(stats, modes) if stats else Normalizer({}, "none")
    except ValueError as error:
        issues.add(("data", "normalization"), str(error))
        return Normalizer({}, "none")


def _augmentation(issues: Issues, config: ExperimentConfig, dataset: TrainingDataset) -> Augmentation | None:
    if config.data.augmentation is None:
        return None
    columns = columns_of(dataset)
    augmentation = Augmentation(
        config.data.augmentation,
        pictures_of(dataset),
        None if columns is None else [n for n in observations_of(columns) if not columns[n].is_picture],
    )
    for setting, sentence in augmentation.without_effect(dataset.facts().get("windows", {})):
        issues.add(("data", "augmentation", *(setting.split(".", 1) if setting else ())), sentence)
    return augmentation


def _steps_per_epoch(
    issues: Issues, config: ExperimentConfig, dataset: TrainingDataset, world_size: int
) -> int:
    try:
        sampler = GlobalBatchSampler(
            dataset.samples_per_epoch,
            config.data.batch_size,
            world_size=world_size,
            micro_batches=config.train.accumulate_grad_batches,
        )
    except ValueError as error:
        whole = mapping_at(issues.located.data, "data").get("global_batch_size")
        issues.add(("data", "batch_size" if whole is None else "global_batch_size"), str(error))
        return 0
    return sampler.steps_per_epoch
