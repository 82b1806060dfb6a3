"""The schema of the experiment YAML: every key, its type, its default and its meaning."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field, model_validator

from trainer.config.augmentation import AugmentationConfig
from trainer.config.component import MAY_CHANGE, ComponentSpec
from trainer.config.online import OnlineConfig
from trainer.config.section import KeyMistake, Section

NormalizationMode = Literal["mean_std", "min_max", "quantile", "none"]


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


class RecordingCamerasConfig(Section):
    """The cameras through which demonstrations are recorded; the simulator's currents come with them."""

    names: list[str] = Field(
        min_length=1, description="of the simulator's cameras; cam_head is observation.images.cam_head"
    )
    size: int = Field(96, ge=16, le=320, multiple_of=2, description="edge of the square pictures in px")


class RecordingConfig(Section):
    """How `trainer record --train_config` makes the dataset of this experiment."""

    env: str = Field(min_length=1, description="simulator, such as metaworld/pick-place-v3")
    episodes: int = Field(50, gt=0, description="successful demonstrations")
    seed: int = Field(0, ge=0, description="chooses the starts")
    cameras: RecordingCamerasConfig | None = Field(
        None, description="null: no pictures, and no observation.current"
    )
    processes: int | None = Field(
        None, gt=0, description="processes that play and draw; null: one per core with cameras, else one"
    )


class ValidationConfig(Section):
    """Episodes that are kept from training, and how often the loss on them is measured."""

    fraction: float | None = Field(
        None, gt=0, lt=1, description="share of the episodes, chosen by the seed; give this or `episodes`"
    )
    episodes: list[int | str] | str | None = Field(
        None,
        description='the episodes: numbers, ranges (`"0:5"` is 0 to 4) and splits of the dataset '
        "(`valid`), in a list, or one such text",
    )
    every_n_epochs: int = Field(1, gt=0, description="the last epoch is always validated")
    batches: int | None = Field(
        None, gt=0, description="batches of all ranks to measure, evenly spread; null: every sample"
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> ValidationConfig:
        if self.fraction is None and self.episodes is None:
            raise KeyMistake(
                "fraction", "which episodes are held out is not said", "give fraction or episodes"
            )
        if self.fraction is not None and self.episodes is not None:
            raise KeyMistake("episodes", "fraction says already which episodes are held out", "remove one")
        return self


class DataConfig(Section):
    """Where samples come from and how they travel."""

    datamodule: ComponentSpec
    # Always a number in a checked configuration: where `global_batch_size` is given, the check divides it.
    batch_size: int = Field(  # type: ignore[assignment]
        None,
        gt=0,
        description="samples per rank and batch; give this or `global_batch_size`",
        json_schema_extra=MAY_CHANGE,
    )
    global_batch_size: int | None = Field(
        None,
        gt=0,
        description="samples per update over all ranks, however many there are",
        json_schema_extra=MAY_CHANGE,
    )
    num_workers: int = Field(
        0,
        ge=0,
        le=1024,
        description="loader processes; 0 gathers in the training process",
        json_schema_extra=MAY_CHANGE,
    )
    pin_memory: bool | None = Field(
        None,
        description="pin host memory, so that copies to a GPU run beside the step; null: on a GPU",
        json_schema_extra=MAY_CHANGE,
    )
    persistent_workers: bool = Field(
        False, description="keep loader processes from epoch to epoch", json_schema_extra=MAY_CHANGE
    )
    prefetch_factor: int | None = Field(
        None, gt=0, description="batches in flight per worker", json_schema_extra=MAY_CHANGE
    )
    frame_memory: int = Field(
        1024,
        ge=0,
        description="MB of decoded camera frames that a rank keeps, those that are needed soonest; "
        "workers share them; 0 keeps none",
        json_schema_extra=MAY_CHANGE,
    )
    normalization: NormalizationMode | dict[str, NormalizationMode] = Field(
        "mean_std", description="one mode for all features, or feature → mode (mean_std where not named)"
    )
    augmentation: AugmentationConfig | None = None
    recording: RecordingConfig | None = Field(None, json_schema_extra=MAY_CHANGE)
    validation: ValidationConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, raw: Any) -> Any:
        """Let a file take back the batch size of the file that it builds on."""
        if isinstance(raw, dict) and raw.get("batch_size", 0) is None:
            return {key: value for key, value in raw.items() if key != "batch_size"}
        return raw

    @model_validator(mode="after")
    def _one_batch_size(self) -> DataConfig:
        if self.batch_size is None and self.global_batch_size is None:
            message = "the size of a batch is not said"
            hint = "give batch_size (samples of a rank) or global_batch_size (samples of all ranks)"
            raise KeyMistake("batch_size", message, hint)
        if self.batch_size is not None and self.global_batch_size is not None:
            message = "batch_size gives the size of a batch already"
            hint = (
                "remove one of the two; `batch_size: null` takes back one of a file that this one builds on"
            )
            raise KeyMistake("global_batch_size", message, hint)
        return self


class EMAConfig(Section):
    """Exponential moving average of the weights; what is deployed when it is on."""

    enabled: bool = Field(False, description="keep an average and deploy it")
    decay: float = Field(0.999, gt=0, lt=1, description="share of the average that an update keeps")


class TemporalEnsemblingConfig(Section):
    """Averaging overlapping action chunks on a robot, in place of executing them one after the other."""

    enabled: bool = Field(
        False, description="ask for a chunk at every step and average what all say of the present action"
    )
    m: float = Field(
        0.01,
        allow_inf_nan=False,
        description="prediction i from the oldest (i = 0) weighs exp(−m · i); 0 weighs all alike",
    )


class EvaluationConfig(Section):
    """Rolling the policy out in a simulator while it trains."""

    env: str = Field(min_length=1, description="simulator, such as metaworld/pick-place-v3 or pusht")
    episodes: int = Field(20, gt=0, description="starts to try; 50 are too few to rank policies")
    every_n_epochs: int = Field(1, gt=0, description="the last epoch is always evaluated")
    seed: int = Field(0, ge=0, description="chooses the starts; never those that were recorded")
    videos: int = Field(2, ge=0, description="episodes to film")


class BestConfig(Section):
    """Which checkpoint `<save_dir>/best` names."""

    metric: str = Field(min_length=1, description="name of what is measured, as it stands in metrics.jsonl")
    mode: Literal["min", "max"] = Field("min", description="whether less or more is better")


class CheckpointConfig(Section):
    """When a run is saved, what stays of it, and how it is taken up again."""

    save_every_n_steps: int | None = Field(
        None, gt=0, description="updates between checkpoints within an epoch, of which the newest one stays"
    )
    save_last: bool = Field(True, description="save the end of the run also when no checkpoint is due there")
    keep: int | None = Field(
        None, gt=0, description="checkpoints of epochs that stay, beside the best one; null: all of them"
    )
    best: BestConfig | None = Field(
        None, description="save the best moment, and let `<save_dir>/best` name it"
    )
    resume_from: str | None = Field(
        "auto",
        description="`auto`: the run in save_dir, if there is one; null: never, an earlier run is moved "
        "aside; or a checkpoint folder",
    )


class CompileConfig(Section):
    """`torch.compile` of every trained component."""

    enabled: bool = Field(False, description="compile the forward passes; the first steps then take longer")
    backend: str = Field("inductor", min_length=1, description="inductor needs a C++ compiler on a CPU")
    mode: str = Field("default", description="default, reduce-overhead or max-autotune")


class TrainConfig(Section):
    """The loop."""

    trainer: ComponentSpec
    loss: ComponentSpec | None = None
    project_name: str = Field(
        min_length=1,
        description="name of the run, in the tracker and in the report",
        json_schema_extra=MAY_CHANGE,
    )
    save_dir: str = Field(
        min_length=1,
        description="run folder; relative paths start at the project folder",
        json_schema_extra=MAY_CHANGE,
    )
    save_every: int = Field(1, gt=0, description="epochs between checkpoints", json_schema_extra=MAY_CHANGE)
    epoch: int | None = Field(
        None,
        gt=0,
        description="number of passes over the data; give this, `max_steps`, or both",
        json_schema_extra=MAY_CHANGE,
    )
    max_steps: int | None = Field(
        None,
        gt=0,
        description="number of updates; the run ends with whichever of the two comes first",
        json_schema_extra=MAY_CHANGE,
    )
    accumulate_grad_batches: int = Field(
        1,
        gt=0,
        description="batches of every rank that make one update together",
        json_schema_extra=MAY_CHANGE,
    )
    load_dir: str | None = Field(
        None, description="checkpoint folder whose weights this run starts from; its optimizers start anew"
    )
    seed: int | None = Field(
        None, ge=0, lt=2**63, description="order, noise and dropout; the top-level seed if not given"
    )
    optimizer: ComponentSpec | None = Field(
        None, description="of every component that is not frozen and has none under `component_optims`"
    )
    parallel: Literal["none", "ddp", "fsdp"] | None = Field(
        None,
        description="how ranks share a component: ddp (gradients are averaged; the default of several "
        "ranks), fsdp (FSDP2: weights, gradients and optimizer states are sharded), none (one process)",
        json_schema_extra=MAY_CHANGE,
    )
    gradient_clip_val: float | dict[str, float] | None = Field(
        None, description="largest gradient norm; for all components, or component → number"
    )
    gradient_clip_scope: Literal["component", "global"] = Field(
        "component", description="the norm is that of each component, or of all together"
    )
    non_finite: Literal["auto", "stop", "skip", "lower"] = Field(
        "auto",
        description="gradients with inf or NaN: stop the run, skip the update, or skip it and lower the loss "
        "scale of fp16; auto: lower with fp16, else stop",
    )
    compile: CompileConfig = Field(CompileConfig(), json_schema_extra=MAY_CHANGE)
    ema: EMAConfig = EMAConfig()
    temporal_ensembling: TemporalEnsemblingConfig = Field(
        TemporalEnsemblingConfig(), json_schema_extra=MAY_CHANGE
    )
    log_every_n_steps: int = Field(
        10, gt=0, description="steps whose metrics travel to the host together", json_schema_extra=MAY_CHANGE
    )
    checkpoint: CheckpointConfig = Field(CheckpointConfig(), json_schema_extra=MAY_CHANGE)
    evaluation: EvaluationConfig | None = Field(None, json_schema_extra=MAY_CHANGE)
    metrics: list[ComponentSpec] = Field(
        default_factory=list,
        description="what is measured on the validation episodes beside the loss",
        json_schema_extra=MAY_CHANGE,
    )
    callbacks: list[ComponentSpec] = Field(
        default_factory=list,
        description="what happens beside training, in this order",
        json_schema_extra=MAY_CHANGE,
    )
    loggers: list[ComponentSpec] = Field(
        default_factory=lambda: [ComponentSpec(type="wandb")],
        description="where metrics go beside metrics.jsonl: wandb, tensorboard, or of a plugin",
        json_schema_extra=MAY_CHANGE,
    )

    @model_validator(mode="after")
    def _has_an_end(self) -> TrainConfig:
        if self.epoch is None and self.max_steps is None:
            raise KeyMistake("epoch", "how long to train is not said", "give epoch, max_steps, or both")
        clips = self.gradient_clip_val
        numbers = clips.values() if isinstance(clips, dict) else [] if clips is None else [clips]
        if not all(number > 0 for number in numbers):
            raise KeyMistake("gradient_clip_val", "gradient_clip_val must be greater than 0")
        if isinstance(clips, dict) and self.gradient_clip_scope == "global":
            message = "with gradient_clip_scope: global there is one norm, so this is one number"
            raise KeyMistake("gradient_clip_val", message)
        return self


class ExperimentConfig(Section):
    """One experiment."""

    plugins: list[str] = Field(
        default_factory=list, description="modules that register components", json_schema_extra=MAY_CHANGE
    )
    params: dict[str, Any] = Field(
        default_factory=dict,
        description="values for ${params.…}; one that nothing reads is warned of",
        json_schema_extra=MAY_CHANGE,
    )
    seed: int = Field(123, ge=0, lt=2**63, description="weights are initialised from it, alike on all ranks")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N", json_schema_extra=MAY_CHANGE)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: bf16 on a GPU, fp32 on a CPU; fp16 scales the loss"
    )
    deterministic: bool = Field(False, description="refuse operations without a deterministic implementation")
    model: ModelConfig
    data: DataConfig
    train: TrainConfig
    online: OnlineConfig | None = Field(
        None, description="what robots collect while the policy trains: `trainer online`"
    )

    def at(self, path: tuple[str | int, ...]) -> Any:
        """Return what stands at a config path."""
        value: Any = self
        for key in path:
            value = getattr(value, str(key)) if isinstance(value, BaseModel) else value[key]
        return value

    def with_parameters(self, path: tuple[str | int, ...], params: dict[str, Any]) -> ExperimentConfig:
        """Return the same configuration with other `params` of the component spec at a config path."""

        def replaced(value: Any, below: tuple[str | int, ...]) -> Any:
            if not below:
                return value.model_copy(update={"params": params})
            key, rest = below[0], below[1:]
            if isinstance(value, list):
                return [replaced(item, rest) if i == key else item for i, item in enumerate(value)]
            if isinstance(value, dict):
                return {**value, key: replaced(value[key], rest)}
            return value.model_copy(update={key: replaced(getattr(value, str(key)), rest)})

        changed: ExperimentConfig = replaced(self, path)
        return changed

    @property
    def run_seed(self) -> int:
        """The seed of everything after the models were built: order, noise, dropout."""
        return self.seed if self.train.seed is None else self.train.seed

    @property
    def collecting_env(self) -> str | None:
        """The simulator in which rollout workers collect, or None."""
        evaluation, recording = self.train.evaluation, self.data.recording
        named = [self.online and self.online.workers.env, evaluation and evaluation.env]
        return next((env for env in (*named, recording and recording.env) if env), None)

    def total_steps(self, steps_per_epoch: int | None) -> int:
        """Number of updates of the run, for batches that give so many in an epoch; None without epochs.

        Raises:
            ValueError: there are no epochs, and `train.max_steps` is not given.
        """
        if steps_per_epoch is None and self.train.max_steps is None:
            raise ValueError("the batches have no epochs, so train.max_steps must say when the run ends")
        epochs, most = self.train.epoch, self.train.max_steps
        if steps_per_epoch is None or epochs is None:
            assert most is not None
            return most
        return epochs * steps_per_epoch if most is None else min(epochs * steps_per_epoch, most)

    @property
    def optimizers(self) -> dict[str, tuple[tuple[str, ...], ComponentSpec]]:
        """Component → config path and spec of its optimizer, for all that have one."""
        found: dict[str, tuple[tuple[str, ...], ComponentSpec]] = {}
        for name in self.model.component_config_paths:
            flags = self.model.component_build_args.get(name)
            if name in self.model.component_optims:
                spec = self.model.component_optims[name]
                found[name] = (("model", "component_optims", name), spec)
            elif self.train.optimizer is not None and not (flags and flags.freeze):
                found[name] = (("train", "optimizer"), self.train.optimizer)
        return found
