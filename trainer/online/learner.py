"""What the learner does beside the usual loop: it draws what robots have collected, and publishes weights."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from trainer.config.online import OnlineConfig
from trainer.config.schemas import ExperimentConfig
from trainer.data.batch_path import BatchPath
from trainer.data.batches import Batches
from trainer.data.loader import BatchLoader
from trainer.deployment.robot_policy import robot_facts
from trainer.engine.build_data import Data
from trainer.engine.experiment import Experiment
from trainer.engine.stop import WaitEnded
from trainer.engine.tracking import ONLINE
from trainer.online.actors import MANAGER, REPLAY, find_actor
from trainer.online.ahead import DrawnAhead
from trainer.online.mixed import DrawKey, MixedBatches, as_tensors
from trainer.online.publisher import deployed_weights, policy_description
from trainer.online.waiting import answer, wait_while
from trainer.online.weights import Weights, architecture_of
from trainer.runtime import Runtime
from trainer.templates import Callback, TrainingDataset


class Learner:
    """One rank of the learner, connected to the actors of its run.

    Args:
        config: with an `online` section.
        data: what the demonstrations are.
        runtime: this rank.

    Attributes:
        publishing: the callback that publishes.

    Raises:
        UsageError: an actor is not there, or the episodes that it has are of another robot.
    """

    def __init__(self, config: ExperimentConfig, data: Data, runtime: Runtime) -> None:
        assert config.online is not None
        self._settings = config.online
        self._replay = find_actor(REPLAY)
        self._drawing = Drawing(self._replay, self._settings, data.dataset, config.run_seed)
        answer(self._replay.describe.remote(robot_facts(data.dataset.facts())), "the replay buffer")
        self.publishing = Publishing(self._settings, find_actor(MANAGER), self._replay)

    def batches(self, demonstrations: Batches, path: BatchPath, runtime: Runtime) -> Batches:
        """Return the batches of this rank: demonstrations and collected samples, mixed."""
        assert isinstance(demonstrations, BatchLoader)
        return MixedBatches(
            demonstrations,
            path,
            self._drawing,
            self._settings.ratio,
            rank=runtime.rank,
            world_size=runtime.world_size,
            cancel=self._drawing.cancel,
        )


class Drawing:
    """Draws the collected share of a batch: in the first updates from demonstrations, then from the buffer.

    Args:
        replay: the actor.
        settings: the `online` section.
        demonstrations: for the first `offline_steps` updates.
        seed: of all draws.
    """

    def __init__(
        self, replay: Any, settings: OnlineConfig, demonstrations: TrainingDataset, seed: int
    ) -> None:
        self._replay, self._offline = replay, settings.offline_steps
        self._demonstrations, self._seed = demonstrations, seed
        self._cancelled = False
        self._collected = DrawnAhead(self._from_buffer)

    def cancel(self) -> None:
        """Let draws that wait give up."""
        self._cancelled = True

    def __call__(self, count: int, key: DrawKey) -> Mapping[str, Any]:
        """Return `count` raw samples, as a dataset gives them.

        Raises:
            WaitEnded: the run is over or asked to stop while there is nothing to draw.
        """
        if key.update < self._offline:
            random = np.random.default_rng([self._seed, key.update])
            chosen = random.integers(len(self._demonstrations), size=key.first + count)
            return self._demonstrations.__getitems__(chosen[key.first :])
        return self._demonstrations.of_robot(as_tensors(self._collected(count, key)))

    def _from_buffer(self, count: int, key: DrawKey, updates: int) -> Mapping[str, Any]:
        made = key.update - self._offline
        wait_while(lambda: self._reason_to_wait(made))
        if updates > 1 and self._reason_to_wait(made, updates - 1) is not None:
            updates = 1  # the last of them would come before it may
        call = self._replay.sample.remote(count, (self._seed, key.update), key.first, updates)
        drawn: Mapping[str, Any] = answer(call, "the replay buffer")
        return drawn

    def _reason_to_wait(self, updates: int, ahead: int = 0) -> str | None:
        if self._cancelled:
            raise WaitEnded("the run is over")
        reason: str | None = answer(self._replay.may_update.remote(updates, ahead), "the replay buffer")
        return reason


class Publishing(Callback):
    """Sends the weights that would be deployed to the robots, and notes what they have collected.

    Every rank calls it, since sharded weights are gathered; rank 0 sends. Only the first version is waited
    for, which tells whether robots can take up these weights; else nothing waits for the cluster, and what is
    noted at a publication was asked for at the one before.

    Args:
        settings: the `online` section.
        manager: the actor.
        replay: the actor.
    """

    def __init__(self, settings: OnlineConfig, manager: Any, replay: Any) -> None:
        self._settings, self._manager, self._replay = settings, manager, replay
        self._published = -1
        self._began = time.monotonic()
        self._version: Any = None
        self._counts: Any = None

    def before_training(self, experiment: Experiment) -> None:
        """Publish what a run that is taken up, or that starts from weights of before, begins with."""
        if experiment.progress.iteration >= self._settings.offline_steps and not experiment.finished:
            self._publish(experiment)

    def after_step(self, experiment: Experiment, metrics: Mapping[str, Any]) -> None:
        """Publish every `publish.every_n_steps` updates, from the end of the offline ones on."""
        online = experiment.progress.iteration - self._settings.offline_steps
        if online >= 0 and online % self._settings.publish.every_n_steps == 0:
            self._publish(experiment)

    def after_training(self, experiment: Experiment) -> None:
        """Publish the end of the run, and wait until it has arrived."""
        if self._published != experiment.progress.iteration:
            self._publish(experiment)
        if experiment.runtime.is_main:
            with contextlib.suppress(WaitEnded):
                answer(self._version, "the policy state manager")

    def _publish(self, e: Experiment) -> None:
        e.tracker.flush()
        weights = deployed_weights(e, bf16=self._settings.publish.bf16)
        self._published = e.progress.iteration
        if e.runtime.is_main:
            # Asked to stop while an actor is silent, the run is saved, and publishes when it goes on.
            with contextlib.suppress(WaitEnded):
                self._send(e, weights)

    def _send(self, e: Experiment, weights: Weights) -> None:
        description = None
        if self._version is None:
            description = policy_description(e)
        else:
            version = answer(self._version, "the policy state manager")
            counts = answer(self._counts, "the replay buffer")
            scores = {"weights_version": float(version), **counts.scores()}
            seconds = round(time.monotonic() - self._began, 1)
            e.tracker.note(ONLINE, {"step": e.progress.iteration, "seconds": seconds}, scores)
        self._replay.note_updates.remote(max(0, e.progress.iteration - self._settings.offline_steps))
        self._version = self._manager.update_weights.remote(
            by_reference(weights),
            architecture=architecture_of(weights),
            step=e.progress.iteration,
            description=description,
        )
        if description is not None:
            answer(self._version, "the policy state manager")
        self._counts = self._replay.counts.remote()


def by_reference(weights: Weights) -> Any:
    """Return weights as an actor passes them on: a list of one reference to them."""
    import ray

    return [ray.put(weights)]
