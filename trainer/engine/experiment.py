"""An experiment that has been put together: what the loop needs, and how it is saved and taken up again."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn

from trainer.config.schemas import ExperimentConfig
from trainer.data.augmentation import Augmentation
from trainer.data.loader import BatchLoader
from trainer.data.normalization import Normalizer
from trainer.engine.checkpoint import (
    TRAINING_STATE,
    CheckpointWriter,
    Snapshot,
    load_tensors,
    to_host,
)
from trainer.engine.deployment import (
    CONFIG,
    DATASET,
    MODELS,
    STATS,
    DeployedPolicy,
    build_loss,
    build_models,
    load_component,
)
from trainer.engine.step import switch_optimizer
from trainer.engine.tracking import Tracker
from trainer.modeling.prepare import unwrapped
from trainer.runtime import Runtime
from trainer.utils.random import AUGMENTATION, SampleRandom
from trainer.utils.seed import random_state, restore_random_state
from trainer.utils.versions import library_versions


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        epoch: completed epochs.
        iteration: completed updates.
    """

    epoch: int = 0
    iteration: int = 0


@dataclass
class Experiment:
    """Everything that the loop needs, and nothing that it has to ask for."""

    config: ExperimentConfig
    runtime: Runtime
    run: Path
    project: Path
    trainer: Any
    models: nn.ModuleDict
    optimizers: dict[str, torch.optim.Optimizer]
    loader: BatchLoader
    normalizer: Normalizer
    augmentation: Augmentation | None
    windows: Mapping[str, Any]
    stats: Mapping[str, Any] | None
    tracker: Tracker
    writer: CheckpointWriter
    batch_metrics: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    progress: Progress = field(default_factory=Progress)

    @property
    def total_steps(self) -> int:
        """Number of updates of the whole run."""
        return self.config.train.epoch * self.loader.steps_per_epoch

    def step_arguments(self) -> dict[str, Any]:
        """Return what `train_step` accepts of `epoch, total_epochs, iterations, stats`."""
        offered = {
            "epoch": self.progress.epoch,
            "total_epochs": self.config.train.epoch,
            "iterations": self.progress.iteration,
            "stats": self.stats,
        }
        accepted = self._step_parameters
        if any(p.kind is p.VAR_KEYWORD for p in accepted.values()):
            return offered
        return {name: value for name, value in offered.items() if name in accepted}

    @functools.cached_property
    def _step_parameters(self) -> Mapping[str, inspect.Parameter]:
        """What `train_step` takes; looked up once, since it is asked for at every step."""
        return inspect.signature(self.trainer.train_step).parameters

    def augmented(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the batch of the coming step with its random changes, which only training sees."""
        if self.augmentation is None:
            return batch
        runtime = self.runtime
        place = (runtime.rank, runtime.world_size, runtime.device)
        random = SampleRandom(self.config.run_seed, self.progress.iteration, *place, stream=AUGMENTATION)
        return self.augmentation(batch, random)

    def deployed_policy(self) -> DeployedPolicy | None:
        """Return the policy as it would be on a robot now; None where the trainer names no policy class."""
        policy_class = getattr(type(self.trainer), "policy_class", None)
        if policy_class is None:
            return None
        models = build_models({n: self.run / MODELS / f"{n}.yaml" for n in self.models})
        for name, state in self.weights_to_deploy().items():
            models[name].load_state_dict(state)
        models.requires_grad_(False).eval().to(self.runtime.device)
        spec = self.config.train
        policy = policy_class(models, build_loss(spec.loss), **spec.trainer.params)
        return DeployedPolicy(policy, self.normalizer.for_dataset(), self.windows, self.runtime.device)

    def weights_to_deploy(self) -> dict[str, dict[str, Any]]:
        """Return component → the state to use on a robot: averaged where there is an average."""
        averaged: dict[str, Any] = getattr(self.trainer, "deployed_weights", dict)()
        for optimizer in self.optimizers.values():
            switch_optimizer(optimizer, "eval")
        states = {n: averaged.get(n) or m.state_dict() for n, m in unwrapped(self.models)}
        states = {n: to_host(state) for n, state in states.items()}
        for optimizer in self.optimizers.values():
            switch_optimizer(optimizer, "train")
        return states

    def save(self) -> None:
        """Snapshot the run and have it written in the background; every rank takes part."""
        rng = self.runtime.gather(random_state())
        if not self.runtime.is_main:
            return
        tensors: dict[str, Any] = {f"{n}.pt": state for n, state in self.weights_to_deploy().items()}
        tensors |= {f"{n}_opt.pt": to_host(o.state_dict()) for n, o in self.optimizers.items()}
        tensors[TRAINING_STATE] = {
            "epoch": self.progress.epoch,
            "iteration": self.progress.iteration,
            "models": {n: to_host(m.state_dict()) for n, m in unwrapped(self.models) if n in self.optimizers},
            "trainer": to_host(getattr(self.trainer, "state_dict", dict)()),
            "rng": rng,
        }
        files = [self.run / CONFIG, self.run / DATASET, *sorted((self.run / MODELS).glob("*.yaml"))]
        files += [self.run / STATS] if self.stats else []
        facts = {
            **vars(self.progress),
            "global_batch": self.config.data.batch_size * self.runtime.world_size,
            "steps_per_epoch": self.loader.steps_per_epoch,
            "world_size": self.runtime.world_size,
            "project": str(self.project),
            "versions": library_versions(),
        }
        self.writer.submit(Snapshot(self._checkpoint_name(), tensors, files, facts))

    def _checkpoint_name(self) -> str:
        """Return `epoch_<N>` at the end of an epoch, `step_<N>` within one."""
        whole = self.progress.iteration == self.progress.epoch * self.loader.steps_per_epoch
        return f"epoch_{self.progress.epoch}" if whole else f"step_{self.progress.iteration}"

    def restore(self, folder: Path) -> None:
        """Take up the run where a checkpoint left it.

        Raises:
            CheckpointError: the checkpoint is incomplete or damaged.
        """
        state = load_tensors(folder / TRAINING_STATE)
        for name, module in unwrapped(self.models):
            if name in state["models"]:
                module.load_state_dict(state["models"][name])
            else:
                load_component(module, folder / f"{name}.pt")
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(load_tensors(folder / f"{name}_opt.pt"))
        if hasattr(self.trainer, "load_state_dict"):
            self.trainer.load_state_dict(state["trainer"])
        self.progress = Progress(state["epoch"], state["iteration"])
        if len(state["rng"]) == self.runtime.world_size:
            restore_random_state(state["rng"][self.runtime.rank])

    def __enter__(self) -> Experiment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish what is being written and recorded.

        After an error the ranks no longer meet: each writes what it has by itself, so that none of them waits
        for another that is gone.
        """
        try:
            self.writer.close()
        finally:
            self.tracker.close(together=kind is None)
