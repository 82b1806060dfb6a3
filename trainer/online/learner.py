"""What the learner does beside the usual loop: it draws what robots have collected, and publishes its weights."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from trainer.config.online import OnlineConfig
from trainer.data.batch_path import BatchPath
from trainer.data.batches import Batch, Batches
from trainer.data.loader import BatchLoader
from trainer.engine.experiment import Experiment
from trainer.online.actors import find_actor
from trainer.online.mixed import DrawKey, MixedBatches
from trainer.online.publisher import deployed_weights, policy_description
from trainer.online.waiting import answer, wait_while
from trainer.online.weights import architecture_of
from trainer.runtime import Runtime
from trainer.templates import Callback, TrainingDataset
from trainer.utils.random import Random

ONLINE = "online.jsonl"


class Drawing:
    """Draws the collected share of every batch: of demonstrations until robots collect, then of the replay buffer.

    Args:
        replay: the actor.
        settings: the `online` section.
        demonstrations: the dataset from which the first `offline_steps` updates are drawn whole.
        seed: of those draws.
    """

    def __init__(
        self, replay: Any, settings: OnlineConfig, demonstrations: TrainingDataset, seed: int
    ) -> None:
        self._replay, self._settings = replay, settings
        self._demonstrations, self._seed = demonstrations, seed

    def __call__(self, count: int, key: DrawKey) -> Batch:
        """Return `count` raw samples as a dataset gives them.

        Raises:
            WaitEnded: the run is asked to stop while there is nothing to draw from.
        """
        if key.update < self._settings.offline_steps:
            chosen = np.random.default_rng([self._seed, *key]).integers(len(self._demonstrations), size=count)
            return self._demonstrations.__getitems__(chosen)
        wait_while(lambda: answer(self._replay.may_update.remote(key.update), "the replay buffer"))
        drawn: Batch = answer(self._replay.sample.remote(count, (self._seed, *key)), "the replay buffer")
        return drawn


class Publishing(Callback):
    """Sends the weights that would be deployed to the robots, and notes what came of it.

    Every rank calls it, since sharded weights are gathered; rank 0 sends. Nothing waits for the cluster: what
    is noted at a publication was asked for at the one before.

    Args:
        settings: the `online` section.
        manager: the `policy_state_manager` actor.
        replay: the `replay_buffer` actor.
    """

    def __init__(self, settings: OnlineConfig, manager: Any, replay: Any) -> None:
        self._settings, self._manager, self._replay = settings, manager, replay
        self._published = -1
        self._version: Any = None
        self._counts: Any = None

    def before_training(self, experiment: Experiment) -> None:
        """Publish what a run that is taken up, or starts from weights of before, begins with."""
        if experiment.progress.iteration >= self._settings.offline_steps and not experiment.finished:
            self._publish(experiment)

    def after_step(self, experiment: Experiment, metrics: Mapping[str, Any]) -> None:
        """Publish every `publish.every_n_steps` updates, from the end of the offline ones on."""
        online = experiment.progress.iteration - self._settings.offline_steps
        if online >= 0 and online % self._settings.publish.every_n_steps == 0:
            self._publish(experiment)

    def after_training(self, experiment: Experiment) -> None:
        """Publish the end of the run."""
        if self._published != experiment.progress.iteration:
            self._publish(experiment)

    def _publish(self, e: Experiment) -> None:
        e.tracker.flush()
        weights = deployed_weights(e, bf16=self._settings.publish.bf16)
        self._published = e.progress.iteration
        if not e.runtime.is_main:
            return
        import ray

        self._note(e)
        self._replay.note_updates.remote(e.progress.iteration)
        description = policy_description(e) if self._version is None else None
        self._version = self._manager.update_weights.remote(
            [ray.put(weights)],
            architecture=architecture_of(weights),
            step=e.progress.iteration,
            description=description,
        )
        self._counts = self._replay.counts.remote()

    def _note(self, e: Experiment) -> None:
        """Write down what was asked for when the version before this one was published."""
        if self._version is None:
            return
        version = answer(self._version, "the policy state manager")
        counts = answer(self._counts, "the replay buffer")
        e.tracker.note(ONLINE, {"step": e.progress.iteration, "version": version}, counts.scores())
