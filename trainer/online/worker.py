"""A rollout worker: collects episodes with the newest policy until it is told to stop."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from trainer.config.online import CollectionMode, OnlineConfig
from trainer.config.schemas import ExperimentConfig
from trainer.data.columns import Column, robot_shapes
from trainer.evaluation.experts import make_expert
from trainer.evaluation.rollout import fit_cameras
from trainer.evaluation.simulated_robot import SimulatedRobot, check_features
from trainer.evaluation.simulators import make_simulator
from trainer.evaluation.starts import start_seed_sequence
from trainer.online.actors import MANAGER, REPLAY, find_actor
from trainer.online.current_policy import CurrentPolicy
from trainer.online.episode import AUTO, Episode, EpisodeError
from trainer.online.recorder import Recorder, recorded_columns
from trainer.online.remote import Remote
from trainer.online.rollout import Collected, Collecting, ExpertTrouble, Labels, Row, collect
from trainer.registry import load_plugins
from trainer.templates import Expert, Simulator
from trainer.utils.errors import UsageError
from trainer.utils.log import log

TROUBLES_IN_A_ROW = 3
"""So many episodes in a row for which the expert raises, or that cannot be stored, end the run."""

_POLL_SECONDS = 0.2

T = TypeVar("T")


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker must know before the first weights come; plain values, which travel.

    Attributes:
        online: the `online` section.
        env: name of the simulator and task.
        index: which of the workers it is, from 0.
        plugins: modules that register simulators and experts.
        device: where its policy computes.
    """

    online: OnlineConfig
    env: str
    index: int = 0
    plugins: Sequence[str] = ()
    device: str = "cpu"

    @classmethod
    def of(cls, config: ExperimentConfig, env: str, index: int = 0, device: str = "cpu") -> WorkerSettings:
        """Take them from an experiment with an `online` section."""
        assert config.online is not None
        return cls(config.online, env, index, list(config.plugins), device)

    @property
    def name(self) -> str:
        """What the worker is called."""
        return f"worker_{self.index}"


@dataclass(frozen=True)
class EpisodeReport:
    """How an episode went that was stored.

    Attributes:
        mode: in which it was collected.
        success: whether it came to its goal.
        steps: control steps.
        labels: actions that the expert gave.
        taken_over: control steps in which the policy did not move the robot.
        version: of the weights at its last step.
        lag: how many versions there were after that one when it ended.
    """

    mode: CollectionMode
    success: bool
    steps: int
    labels: int
    taken_over: int
    version: int
    lag: int


@dataclass
class WorkerReport:
    """What a worker did since it was last asked.

    Attributes:
        name: of the worker.
        episodes: those that were stored.
        delays: seconds from the publication of a version to its first action, of each that came to act.
        dropped: sentences, one for each episode that was not stored.
        waiting: why it collects nothing at present, or None.
        version: of its weights.
    """

    name: str
    episodes: list[EpisodeReport] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    waiting: str | None = None
    version: int = 0


class RolloutWorker:
    """Plays episodes and stores them, with the newest weights and whatever mode it is time for.

    Args:
        settings: of this worker.
        manager: the policy state manager; its methods return their results.
        replay: the replay buffer, likewise.

    Raises:
        UsageError: there is no such simulator or expert, or a person is to be in several places at once.
    """

    def __init__(self, settings: WorkerSettings, manager: Any, replay: Any) -> None:
        self._settings, self._manager, self._replay = settings, manager, replay
        self._online, workers = settings.online, settings.online.workers
        load_plugins(settings.plugins)
        self._current = CurrentPolicy(manager, settings.name, settings.device, workers.n_action_steps)
        self._report = WorkerReport(settings.name)
        self._stopped = False
        self._troubles = self._refused = 0
        self._lost_labels = 0
        self._columns: dict[str, Column] = {}
        self._cameras: list[str] = []
        self._experts: list[Expert] = []
        self._life = f"{time.time_ns():x}"
        self._played = 0
        sequence = start_seed_sequence(workers.seed, "collection")
        self._starts = itertools.islice(sequence, settings.index, None, max(1, workers.count))
        self._simulators: list[Simulator] = [make_simulator(settings.env) for _ in range(workers.envs)]
        longest = self._simulators[0].max_steps
        self._max_steps = min(workers.max_steps or longest, longest)
        if self._online.expert is not None:
            self._experts = self._make_experts()  # before anybody has waited for weights

    def run(self) -> None:
        """Collect until `stop`.

        Raises:
            UsageError: nothing can be collected, or the expert fails again and again; why.
        """
        # Started again, it goes on to starts that it has not played.
        self._starts = itertools.islice(self._starts, self._replay.counts().episodes, None)
        while not self._stopped:
            reason = self._reason_to_wait()
            self._report.waiting = reason
            if reason is None:
                self.collect_round()
            else:
                time.sleep(_POLL_SECONDS)
        for simulator in self._simulators:
            simulator.close()

    def stop(self) -> None:
        """Let `run` return; the episodes in flight are dropped."""
        self._stopped = True

    def report(self) -> WorkerReport:
        """Return what was done since the last call."""
        now = self._report  # `run` adds to it meanwhile
        return WorkerReport(
            now.name,
            _taken(now.episodes),
            _taken(now.delays),
            _taken(now.dropped),
            now.waiting,
            self._current.version,
        )

    def collect_round(self) -> None:
        """Play one episode in each simulator, and store those that are whole."""
        self._current.refresh()
        assert self._current.policy is not None
        if not self._columns:
            self._fit()
        mode = self._online.mode_at(self._current.share)
        labels = self._labels(mode)
        experts = [None] * len(self._simulators) if mode == "policy" else self._experts
        seeds = list(itertools.islice(self._starts, len(self._simulators)))
        rows = [
            Row(simulator, expert, Recorder(self._columns, self._settings.name, seed))
            for simulator, expert, seed in zip(self._simulators, experts, seeds, strict=True)
        ]
        refresh = self._online.workers.refresh
        collecting = Collecting(
            self._current, self._columns, rows, mode, labels, None if refresh == "episode" else refresh
        )
        stored: list[Episode] = []
        try:
            collected = collect(
                collecting, rows, seeds, self._max_steps, self._task(), self._cameras, lambda: self._stopped
            )
            self._report.delays += collecting.delays
            stored += [one.episode for one in collected if self._store(one, mode) and one.episode]
        finally:
            if labels.granted is not None:
                self._lost_labels += labels.used - sum(episode.labels for episode in stored)
                self._replay.return_labels(labels.granted - labels.used, self._settings.name)

    def _store(self, one: Collected, mode: CollectionMode) -> bool:
        """Store an episode, or say why it is dropped, and return whether it was stored."""
        if one.trouble is not None:
            self._note_trouble(one.trouble)
        if one.episode is None:
            return False
        self._troubles = 0
        self._played += 1
        try:
            self._replay.add(one.episode, key=f"{self._life}-{self._played}")
        except EpisodeError as error:
            self._refused += 1
            self._drop(str(error))
            if self._refused >= TROUBLES_IN_A_ROW:
                raise
            return False
        self._refused = 0
        version = int(one.episode.policy_version[-1])
        self._report.episodes.append(
            EpisodeReport(
                mode=mode,
                success=one.episode.success,
                steps=len(one.episode),
                labels=one.episode.labels,
                taken_over=int((one.episode.control_mode != AUTO).sum()),
                version=version,
                lag=max(0, self._manager.version() - version),
            )
        )
        return True

    def _note_trouble(self, trouble: ExpertTrouble) -> None:
        assert self._online.expert is not None
        self._troubles += 1
        text = (
            f"the expert '{self._online.expert.type}' failed at step {trouble.step} of the episode with "
            f"start seed {trouble.seed} ({trouble.text})"
        )
        self._drop(f"{text}; the episode is dropped")
        if self._troubles >= TROUBLES_IN_A_ROW:
            raise UsageError(
                f"{text}, and in the {self._troubles - 1} episodes before it; none of them is kept"
            )

    def _drop(self, text: str) -> None:
        log.warning(text)
        self._report.dropped.append(text)

    def _reason_to_wait(self) -> str | None:
        if self._current.policy is None and not self._current.refresh():
            return "no weights have been published yet"
        reason: str | None = self._replay.may_collect()
        return reason

    def _labels(self, mode: CollectionMode) -> Labels:
        """Ask for as many labels as the coming episodes can need."""
        if mode == "policy" or self._online.expert_budget is None:
            return Labels(0 if mode == "policy" else None)
        asked = len(self._simulators) * self._max_steps
        # Labels of episodes that were dropped were given all the same: they stay granted.
        granted = self._replay.grant_labels(asked + self._lost_labels, self._settings.name)
        return Labels(max(0, granted - self._lost_labels))

    def _fit(self) -> None:
        """Make sure that the simulators are the robot of the demonstrations, and set their cameras."""
        policy = self._current.policy
        assert policy is not None
        columns = recorded_columns(self._current.facts)
        robot = SimulatedRobot.of(self._simulators[0], self._settings.env)
        sizes = {name: c.shape[-1] for name, c in columns.items() if c.is_picture}
        check_features(robot_shapes(columns), robot, policy.fps)
        for simulator in self._simulators:
            fit_cameras(simulator, sizes)
        self._cameras = list(sizes)
        self._columns = columns
        self._experts = self._make_experts(self._current.action_range())

    def _make_experts(self, action_range: np.ndarray | None = None) -> list[Expert]:
        """Make one for each simulator, if there are any."""
        spec = self._online.expert
        if spec is None:
            return []
        experts = [make_expert(spec, action_range) for _ in self._simulators]
        if getattr(experts[0], "human", False) and (len(experts) > 1 or self._online.workers.count > 1):
            raise UsageError(
                f"the expert '{spec.type}' is a person, who can look after one robot at a time; set "
                "online.workers.count and online.workers.envs to 1"
            )
        return experts

    def _task(self) -> str:
        """Return what the robot is to do: the one task of the demonstrations, or that of the simulator."""
        tasks = self._current.facts.get("tasks") or ()
        return str(next(iter(tasks))) if len(tasks) == 1 else self._simulators[0].task or self._settings.env


def _taken(items: list[T]) -> list[T]:
    """Return what is in a list now, and leave there what another thread adds."""
    return [items.pop(0) for _ in range(len(items))]


class RolloutWorkerActor(RolloutWorker):
    """The worker as a Ray actor; `run` goes on beside `report` and `stop`, and after a restart again.

    Args:
        settings: of this worker.
        namespace: of the actors that it works with; see `find_actor`.
    """

    def __init__(self, settings: WorkerSettings, namespace: str | None = None) -> None:
        manager, replay = (Remote(find_actor(name, namespace), name) for name in (MANAGER, REPLAY))
        super().__init__(settings, manager, replay)
