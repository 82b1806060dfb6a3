"""The schema of the experiment YAML: every key, its type, its default and its meaning."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from trainer.config.augmentation import AugmentationConfig
from trainer.config.section import Section

NormalizationMode = Literal["mean_std", "min_max", "quantile", "none"]


class ComponentSpec(Section):
    """Something picked from a registry."""

    type: str = Field(min_length=1, description="registry key")
    params: dict[str, Any] = Field(default_factory=dict, description="constructor arguments")


class ComponentBuildArgs(Section):
    """What happens to a component after it was built."""

    init: bool = Field(False, description="Xavier for convolutions, Kaiming for linear layers, zero biases")
    freeze: bool = Field(False, description="no gradients, eval mode, no optimizer")


class ModelConfig(Section):
    """The components of the policy."""

    component_config_paths: dict[str, str] = Field(
        min_length=1,
        description="component name → model YAML, looked up beside this file, then in the project",
    )
    component_build_args: dict[str, ComponentBuildArgs] = Field(default_factory=dict)
    component_optims: dict[str, ComponentSpec] = Field(
        default_factory=dict, description="component name → optimizer; a component without one is not trained"
    )
    find_unused_parameters: bool = Field(
        False, description="for DistributedDataParallel, where a step may leave parameters out"
    )


class RecordingConfig(Section):
    """How `trainer record --train_config` makes the dataset of this experiment."""

    env: str = Field(min_length=1, description="simulator, such as metaworld/pick-place-v3")
    episodes: int = Field(50, gt=0, description="successful demonstrations")
    seed: int = Field(0, ge=0, description="chooses the starts")


class DataConfig(Section):
    """Where samples come from and how they travel."""

    datamodule: ComponentSpec
    batch_size: int = Field(gt=0, description="samples per rank and step")
    num_workers: int = Field(0, ge=0, description="loader processes; 0 gathers in the training process")
    pin_memory: bool = Field(
        False, description="pin host memory, so that copies to a GPU run beside the step"
    )
    persistent_workers: bool = Field(False, description="keep loader processes from epoch to epoch")
    prefetch_factor: int | None = Field(None, gt=0, description="batches in flight per worker")
    normalization: NormalizationMode | dict[str, NormalizationMode] = Field(
        "mean_std", description="one mode for all features, or feature → mode (mean_std where not named)"
    )
    augmentation: AugmentationConfig | None = None
    recording: RecordingConfig | None = None


class EMAConfig(Section):
    """Exponential moving average of the weights; what is deployed when it is on."""

    enabled: bool = Field(False, description="keep an average and deploy it")
    decay: float = Field(0.999, gt=0, lt=1, description="share of the average that an update keeps")


class EvaluationConfig(Section):
    """Rolling the policy out in a simulator while it trains."""

    env: str = Field(min_length=1, description="simulator, such as metaworld/pick-place-v3 or pusht")
    episodes: int = Field(20, gt=0, description="starts to try; 50 are too few to rank policies")
    every_n_epochs: int = Field(1, gt=0, description="the last epoch is always evaluated")
    seed: int = Field(0, ge=0, description="chooses the starts; never those that were recorded")
    videos: int = Field(2, ge=0, description="episodes to film")


class CheckpointConfig(Section):
    """Taking a run up again."""

    resume_from: str | None = Field(
        "auto",
        description="`auto`: the run in save_dir, if there is one; null: never, an earlier run is moved "
        "aside; or a checkpoint folder",
    )


class TrainConfig(Section):
    """The loop."""

    trainer: ComponentSpec
    loss: ComponentSpec | None = None
    project_name: str = Field(min_length=1, description="name of the run, in the tracker and in the report")
    save_dir: str = Field(min_length=1, description="run folder; relative paths start at the project folder")
    save_every: int = Field(1, gt=0, description="epochs between checkpoints; the last one is always saved")
    epoch: int = Field(gt=0, description="number of passes over the data")
    load_dir: str | None = Field(
        None, description="checkpoint folder whose weights this run starts from; its optimizers start anew"
    )
    seed: int | None = Field(
        None, ge=0, description="order, noise and dropout; the top-level seed if not given"
    )
    gradient_clip_val: float | None = Field(None, gt=0, description="largest gradient norm per component")
    ema: EMAConfig = EMAConfig()
    log_every_n_steps: int = Field(10, gt=0, description="steps whose metrics travel to the host together")
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluation: EvaluationConfig | None = None


class ExperimentConfig(Section):
    """One experiment."""

    plugins: list[str] = Field(default_factory=list, description="modules that register components")
    params: dict[str, Any] = Field(
        default_factory=dict, description="values for ${params.…}; nothing reads them"
    )
    seed: int = Field(123, ge=0, description="weights are initialised from it, alike on all ranks")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 on a GPU, fp32 on a CPU"
    )
    deterministic: bool = Field(False, description="refuse operations without a deterministic implementation")
    model: ModelConfig
    data: DataConfig
    train: TrainConfig

    @property
    def run_seed(self) -> int:
        """The seed of everything after the models were built: order, noise, dropout."""
        return self.seed if self.train.seed is None else self.train.seed
