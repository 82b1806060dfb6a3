"""An experiment that has been put together: what the loop needs, and how it is saved and taken up again."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn

from trainer.checkpoint.names import MODELS, checkpoint_name
from trainer.checkpoint.writer import CheckpointWriter
from trainer.config.schemas import ExperimentConfig
from trainer.data.augmentation import Augmentation
from trainer.data.batches import Batches
from trainer.data.loader import BatchLoader
from trainer.data.normalization import Normalizer
from trainer.deployment.deployed_policy import DeployedPolicy
from trainer.deployment.policy_parts import build_loss, build_models, build_policy, load_own_state, own_state
from trainer.deployment.robot_policy import robot_facts
from trainer.engine.saving import Saving
from trainer.engine.tracking import Tracker
from trainer.engine.update import Update
from trainer.modeling.component import Components
from trainer.runtime import AgreedEnd, Runtime
from trainer.templates import Callback, Context, Objective, Policy
from trainer.utils.log import log
from trainer.utils.random import AUGMENTATION, POLICY, SampleRandom, StepsAhead

# What closing may take on a rank that fails: the others have waited for it in a collective since it did.
CLOSING_SECONDS = 25.0


_OFFERED: dict[str, Callable[[Experiment, Context], Any]] = {
    "epoch": lambda e, context: context.epoch,
    "total_epochs": lambda e, context: e.total_epochs,
    "iterations": lambda e, context: context.step,
    "stats": lambda e, context: e.stats,
    "context": lambda e, context: context,
}
"""What a `train_step` may ask for beside its batch."""


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
    """Everything that the loop needs, and nothing that it has to ask for.

    Attributes:
        facts: what the dataset says of itself, how its columns are normalized, and which of them are read.
        scores: what was measured at the end of the present epoch, the same on all ranks.
        stop_reason: why the run ends before its time, or None.
    """

    config: ExperimentConfig
    runtime: Runtime
    run: Path
    project: Path
    trainer: Any
    policy: Objective | None
    components: Components
    update: Update
    optimizers: dict[str, torch.optim.Optimizer]
    batches: Batches
    normalizer: Normalizer
    augmentation: Augmentation | None
    facts: Mapping[str, Any]
    stats: Mapping[str, Any] | None
    tracker: Tracker
    writer: CheckpointWriter
    batch_metrics: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    callbacks: Sequence[Callback] = ()
    validation_data: BatchLoader | None = None
    progress: Progress = field(default_factory=Progress)
    scores: dict[str, float] = field(default_factory=dict)
    stop_reason: str | None = None
    _deployed: tuple[nn.ModuleDict, Objective] | None = None
    _ahead: StepsAhead = field(default_factory=StepsAhead)

    @property
    def total_steps(self) -> int:
        """Number of updates of the whole run."""
        return self.config.total_steps(self.batches.steps_per_epoch)

    @property
    def total_epochs(self) -> int:
        """Number of passes over the data, the last of which may be cut short by `train.max_steps`."""
        per_epoch = self.batches.steps_per_epoch
        return 1 if per_epoch is None else -(-self.total_steps // per_epoch)

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return self.progress.iteration >= self.total_steps or self.stop_reason is not None

    @property
    def models(self) -> nn.ModuleDict:
        """Component → what policies call."""
        return self.components.called

    def step_arguments(self, context: Context) -> dict[str, Any]:
        """Return what `train_step` accepts of `epoch, total_epochs, iterations, stats, context`."""
        return {name: _OFFERED[name](self, context) for name in self._step_parameters}

    def context(self, micro_batch: int = 0) -> Context:
        """Return what the policy may know of the coming step."""
        return Context(
            self._random(micro_batch, POLICY),
            training=True,
            step=self.progress.iteration,
            total_steps=self.total_steps,
            epoch=self.progress.epoch,
            micro_batch=micro_batch,
            micro_batches=self.batches.micro_batches,
        )

    def _random(self, micro_batch: int, stream: int) -> SampleRandom:
        """Return the numbers of this rank's samples: micro-batches are ranks in time."""
        ranks = self.runtime.world_size
        place = (micro_batch * ranks + self.runtime.rank, self.batches.micro_batches * ranks)
        seed, step = self.config.run_seed, self.progress.iteration
        return SampleRandom(seed, step, *place, self.runtime.device, stream=stream, ahead=self._ahead)

    @functools.cached_property
    def _step_parameters(self) -> frozenset[str]:
        """What `train_step` takes of what it is offered; looked up once, since every step asks for it."""
        accepted = inspect.signature(self.trainer.train_step).parameters
        anything = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
        return frozenset(_OFFERED if anything else _OFFERED.keys() & accepted.keys())

    def augmented(self, batch: dict[str, Any], micro_batch: int = 0) -> dict[str, Any]:
        """Return a batch of the coming update with its random changes, which only training sees."""
        if self.augmentation is None:
            return batch
        return self.augmentation(batch, self._random(micro_batch, AUGMENTATION))

    def deployed_objective(self) -> Objective | None:
        """Return the policy with the weights that would be deployed now, as in `deployed`."""
        deployed = self.deployed()
        return deployed and deployed[1]

    def deployed(self) -> tuple[nn.ModuleDict, Objective] | None:
        """Return components and policy with the weights that would be deployed now; all ranks meet.

        They are one copy, made when it is first asked for and refreshed in place; frozen components are
        shared with the training. None where the trainer names no policy class.
        """
        if self.policy is None:
            return None
        if self._deployed is None:
            self._deployed = self._deployed_copy(type(self.policy))
        models, policy = self._deployed
        for name, state in self.saving.weights_to_deploy().items():
            models[name].load_state_dict(state)
        load_own_state(policy, models, own_state(self.policy, self.models))
        return models, policy

    def _deployed_copy(self, policy_class: type[Objective]) -> tuple[nn.ModuleDict, Objective]:
        trained = {n: self.run / MODELS / f"{n}.yaml" for n, c in self.components.items() if c.trained}
        built = build_models(trained, pretrained=False)
        models = nn.ModuleDict({n: built[n] if c.trained else c.module for n, c in self.components.items()})
        models.requires_grad_(False).eval().to(self.runtime.device)
        spec = self.config.train
        policy = build_policy(policy_class, models, build_loss(spec.loss), spec.trainer.params)
        return models, policy.to(self.runtime.device).eval()

    def deployed_policy(self) -> DeployedPolicy | None:
        """Return the policy as it would be on a robot now; None where nothing acts. All ranks meet."""
        policy = self.deployed_objective()
        if not isinstance(policy, Policy):
            return None
        facts = robot_facts(self.facts)
        ensembling = self.config.train.temporal_ensembling
        return DeployedPolicy(
            policy,
            self.normalizer.for_dataset(),
            facts,
            self.runtime.device,
            temporal_ensembling=ensembling.m if ensembling.enabled else None,
        )

    @functools.cached_property
    def saving(self) -> Saving:
        """How this experiment is saved and taken up again."""
        return Saving(self)

    def save(self) -> str:
        """Have the run written in the background as it is now; every rank takes part.

        Returns:
            The name of the checkpoint folder.

        Raises:
            CheckpointError: the checkpoint before this one could not be written.
        """
        return self.saving.save()

    @property
    def moment(self) -> str:
        """The name of a checkpoint of now."""
        return checkpoint_name(self.progress.epoch, self.progress.iteration, self.batches.steps_per_epoch)

    def __enter__(self) -> Experiment:
        """Begin: what a process that was killed has left of a checkpoint goes."""
        if self.runtime.is_main:
            self.writer.sweep(and_prune=self.config.train.checkpoint.resume_from == "auto")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish what is being written and recorded.

        After an error the ranks no longer meet: each writes what it has by itself, so that none of them waits
        for another that is gone, and takes no longer than CLOSING_SECONDS, because the others learn of the
        error afterwards. What fails then as well is said, and does not take the error's place.
        """
        if kind is None:
            try:
                self.writer.close()
                self.saving.say_what_had_no_effect()
            finally:
                self.tracker.close()
            return
        if not self.runtime.distributed or isinstance(error, AgreedEnd):
            self._close_after(error)  # in this thread: there may be no memory for another one
            return
        closing = threading.Thread(target=self._close_after, args=(error,), name="closing", daemon=True)
        closing.start()
        closing.join(CLOSING_SECONDS)
        if closing.is_alive():
            log.warning("what was still being written is left, so that no rank waits.")

    def _close_after(self, error: BaseException | None) -> None:
        closes = (
            self.saving.write_unmeasured,
            self.writer.close,
            functools.partial(self.tracker.close, together=False),
        )
        for close in closes:
            try:
                close()
            except Exception as also:
                if str(also) != str(error):
                    log.warning(str(also))
