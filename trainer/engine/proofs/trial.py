"""The trial: the run of a configuration, begun in a temporary folder with a few samples per update."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.checkpoint.folder import find_checkpoint
from trainer.config.schemas import CompileConfig, ExperimentConfig
from trainer.data.batches import Batch, Batches
from trainer.data.loader import BatchLoader
from trainer.deployment.policy_parts import own_state
from trainer.engine.assemble import assemble
from trainer.engine.build_data import Data
from trainer.engine.check import CheckedConfig
from trainer.engine.experiment import Experiment
from trainer.engine.faults import Faults
from trainer.engine.fit import fit, updates
from trainer.engine.proofs.witness import Witness, watched
from trainer.engine.rehearsal import explain
from trainer.runtime import Runtime
from trainer.templates import Callback
from trainer.utils.errors import TrainingFault
from trainer.utils.log import log
from trainer.utils.seed import kept_random_state, random_state

SAMPLES = 8
"""Samples of a rank in an update of the trial, or fewer if the run has fewer."""

UPDATES, MOST_UPDATES = 2, 8
"""Two updates; more while a parameter waits for its first gradient, as behind gates that begin at zero."""

State = dict[str, Tensor]


class FewSamples(Batches):
    """The first samples of every batch of a run, which otherwise is as long as it will be.

    Args:
        drawn: the demonstrations.
        samples: of a micro-batch.
        steps_per_epoch: of the run, with all its ranks.
    """

    steps_per_epoch: int

    def __init__(self, drawn: BatchLoader, samples: int, steps_per_epoch: int) -> None:
        self.drawn = drawn
        self.samples = samples
        self.steps_per_epoch = steps_per_epoch
        self.micro_batches = drawn.micro_batches
        self.samples_per_update = samples * drawn.micro_batches

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, cut."""
        for rows in self.drawn.sampler.batches(epoch, start_step):
            since = time.perf_counter()
            batch = self.drawn.sample(rows[: self.samples])
            self.wait_seconds += time.perf_counter() - since
            yield batch

    def example(self, samples: int) -> Batch:
        """Return the first samples of the dataset."""
        return self.drawn.example(samples)


@dataclasses.dataclass
class Trial:
    """A run that has made its first updates.

    Attributes:
        checked: its configuration, whose run folder is a temporary one.
        data: what it trains on.
        experiment: as it stands after the updates.
        witness: what was seen of gradients, and of weights that others than the update have changed.
        before: component → its state when it was put together; the policy's own under "".
        random: the global generators after the updates.
        said: the warnings that were given.
    """

    checked: CheckedConfig
    data: Data
    experiment: Experiment
    witness: Witness
    before: Mapping[str, State]
    random: dict[str, Any]
    said: Sequence[str]

    @property
    def config(self) -> ExperimentConfig:
        """The configuration as it would train."""
        return self.checked.config

    @property
    def loader(self) -> BatchLoader:
        """The demonstrations of the run."""
        assert isinstance(self.experiment.batches, FewSamples)
        return self.experiment.batches.drawn

    @property
    def samples(self) -> int:
        """Samples of a micro-batch of the trial."""
        assert isinstance(self.experiment.batches, FewSamples)
        return self.experiment.batches.samples

    @property
    def checkpoint(self) -> Path:
        """The checkpoint that was written after the last update."""
        return find_checkpoint(self.checked.run)

    def again(self) -> Experiment:
        """Return the run as it is taken up from its checkpoint by another process."""
        experiment = _assembled(self.checked, self.data, self.samples, [], self.experiment.facts)
        experiment.config = self.experiment.config
        return experiment


def states(experiment: Experiment) -> dict[str, State]:
    """Return the states of all components as they are, no copies, and the policy's own under ""."""
    live: dict[str, State] = {name: c.local_state() for name, c in experiment.components.items()}
    if experiment.policy is not None:
        live[""] = own_state(experiment.policy, experiment.models)
    return live


@contextlib.contextmanager
def trial(checked: CheckedConfig, data: Data) -> Iterator[Trial]:
    """Begin the run in a temporary folder; all of it is gone when the block ends.

    It runs on the CPU in fp32, without loggers and without torch.compile. Everything else is what the
    configuration says, the length of its schedules included.

    Args:
        checked: the configuration.
        data: what it trains on.

    Raises:
        ConfigError: the run cannot be put together, or its first updates fail.
        TrainingFault: as in training.
    """
    with (
        tempfile.TemporaryDirectory(prefix="trainer-prove-") as folder,
        kept_random_state(),
        _heard() as said,
    ):
        tried = _tried(checked, Path(folder) / "run")
        samples = min(SAMPLES, tried.config.data.batch_size)
        witness = Witness()
        experiment = _assembled(tried, data, samples, [witness])
        live = states(experiment)
        before = {name: {key: v.detach().clone() for key, v in state.items()} for name, state in live.items()}
        experiment.config = _cut(experiment.config, UPDATES, samples)
        experiment.callbacks = watched(experiment.callbacks, checked, witness)
        witness.more = lambda: _wait_for_more(experiment)
        with experiment:
            _fit(checked, experiment)
            yield Trial(tried, data, experiment, witness, before, random_state(), list(said))


def _fit(checked: CheckedConfig, experiment: Experiment) -> None:
    """Make the updates; what fails in them is a mistake in the configuration."""
    quiet = contextlib.redirect_stderr(io.StringIO())  # the progress bar of so short a run tells nothing
    try:
        with quiet:
            fit(experiment)
            experiment.writer.wait()
    except TrainingFault:
        raise
    except (ValueError, RuntimeError, TypeError, KeyError, IndexError, AttributeError) as error:
        updates = experiment.progress.iteration
        message = f"update {updates + 1} fails: {type(error).__name__}: {explain(error)}"
        raise checked.mistake(("train", "trainer"), message) from error


@contextlib.contextmanager
def _heard() -> Iterator[list[str]]:
    """Keep the warnings that are given, instead of showing them in the middle of the proofs."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.WARNING and record.getMessage() not in said:
                said.append(record.getMessage())

    handlers, propagates = log.handlers[:], log.propagate
    log.handlers[:], log.propagate = [Listener()], False
    try:
        yield said
    finally:
        log.handlers[:], log.propagate = handlers, propagates


def _assembled(
    tried: CheckedConfig,
    data: Data,
    samples: int,
    callbacks: Sequence[Callback],
    facts: Mapping[str, Any] | None = None,
) -> Experiment:
    """Put the run together, as training does."""

    def few(drawn: Batches, path: Any, runtime: Any) -> Batches:
        assert isinstance(drawn, BatchLoader)
        return FewSamples(drawn, samples, data.steps_per_epoch)

    return assemble(tried, data, Runtime(torch.device("cpu")), callbacks, few, facts)


def _tried(checked: CheckedConfig, run: Path) -> CheckedConfig:
    """Return the configuration of the trial."""
    config = checked.config
    saving = config.train.checkpoint.model_copy(
        update={"save_last": True, "save_every_n_steps": None, "keep": None, "resume_from": "auto"}
    )
    train = config.train.model_copy(
        update={
            "checkpoint": saving,
            "compile": CompileConfig(),
            "loggers": [],
            "parallel": None,
            "save_dir": str(run),
        }
    )
    held_out = config.data.validation
    validation = held_out and held_out.model_copy(update={"batches": 1})
    settings = config.data.model_copy(update={"validation": validation})
    top = {"train": train, "data": settings, "device": "cpu", "precision": "fp32"}
    changed = config.model_copy(update=top)
    return dataclasses.replace(checked, run=run, loggers=[], as_read=changed)


def _cut(config: ExperimentConfig, updates: int, samples: int) -> ExperimentConfig:
    """Return the configuration of a run that ends after so many updates, and validates on so few samples."""
    train = config.train.model_copy(update={"epoch": None, "max_steps": updates, "log_every_n_steps": 1})
    data = config.data.model_copy(update={"batch_size": samples})
    return config.model_copy(update={"train": train, "data": data})


def _wait_for_more(experiment: Experiment) -> None:
    """Let the run be an update longer, unless it is long enough."""
    if experiment.total_steps == experiment.progress.iteration < MOST_UPDATES:
        _one_more(experiment)


def next_update(experiment: Experiment) -> Mapping[str, Any]:
    """Make one more update and return its metrics; nothing is saved or measured after it."""
    _one_more(experiment)
    (metrics,) = updates(experiment, Faults(gradients_seen=True))
    progress, per_epoch = experiment.progress, experiment.batches.steps_per_epoch
    progress.iteration += 1
    progress.epoch += progress.iteration == (progress.epoch + 1) * (per_epoch or 0)
    return metrics


def _one_more(experiment: Experiment) -> None:
    """Let the run end after one more update than it has made."""
    updates = experiment.progress.iteration
    experiment.config = _cut(experiment.config, updates + 1, experiment.config.data.batch_size)
