"""Collecting: the policy acts in several simulators at once, and an expert labels or takes over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trainer.config.online import CollectionMode
from trainer.data.columns import ACTION, Column
from trainer.evaluation.rollout import Outcome, play
from trainer.online.current_policy import CurrentPolicy
from trainer.online.episode import AUTO, EXPERT, HUMAN, Episode
from trainer.online.recorder import Recorder
from trainer.templates import Expert, Simulator


class Labels:
    """The labels that the expert may still give; never more.

    Args:
        granted: how many; None for any number.

    Attributes:
        used: how many it gave.
    """

    def __init__(self, granted: int | None = None) -> None:
        self.granted = granted
        self.used = 0

    @property
    def left(self) -> bool:
        """Whether there is one more."""
        return self.granted is None or self.used < self.granted


@dataclass
class ExpertTrouble:
    """What an expert has raised, or gave that is no action.

    Attributes:
        seed: start seed of the episode, which is dropped.
        step: at which it happened.
        text: what it said.
    """

    seed: int
    step: int
    text: str


@dataclass
class Row:
    """An episode while it is played: its simulator, its expert, and what was recorded of it."""

    simulator: Simulator
    expert: Expert | None
    recorder: Recorder
    trouble: ExpertTrouble | None = None


@dataclass(frozen=True)
class Collected:
    """What came of one start.

    Attributes:
        outcome: how it went.
        episode: None where it was dropped.
        trouble: of the expert, for which it was dropped.
    """

    outcome: Outcome
    episode: Episode | None
    trouble: ExpertTrouble | None = None


class Collecting:
    """The robot policy that is played: asks the policy and the expert, decides who acts, and records.

    Args:
        current: the policy; it has its first weights.
        columns: what is recorded.
        rows: the episodes, in the order of the simulators.
        mode: `policy`, `dagger` or `hg_dagger`.
        labels: what the expert may give.
        refresh: control steps after which newer weights are looked for, which are taken up where the policy
            is asked for a chunk; None only between episodes.

    Attributes:
        delays: for each version that began to act, the seconds since it was published.
    """

    def __init__(
        self,
        current: CurrentPolicy,
        columns: Mapping[str, Column],
        rows: Sequence[Row],
        mode: CollectionMode,
        labels: Labels,
        refresh: int | None = None,
    ) -> None:
        assert current.policy is not None
        self._current, self._policy = current, current.policy
        self._columns, self._mode, self._labels, self._refresh = columns, mode, labels, refresh
        self._all, self._rows = list(rows), list(rows)
        self._steps = 0
        self._asked_for_news = 0
        self._version = current.version
        self.delays: list[float] = []

    def reset(self, seeds: int | Sequence[int] = 0) -> None:
        """Begin the episodes."""
        self._policy.reset(seeds)
        self._rows = list(self._all)
        for row in self._rows:
            if row.expert is not None:
                self._ask(row, row.expert.reset, row.simulator)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these of the episodes."""
        self._policy.keep(rows)
        self._rows = [self._rows[place] for place in rows]

    def act(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return what each robot does, `(N, A)`, and record it."""
        if self._policy.asks_next:
            due = self._refresh is not None and self._steps - self._asked_for_news >= self._refresh
            if due:
                self._asked_for_news = self._steps
                self._current.refresh()
            self._version = self._current.version
        actions = np.array(self._policy.act(observation))
        delay = self._current.delay()
        if delay is not None:
            self.delays.append(delay)
        self._steps += 1
        seen = {name: observation[name] for name in observation}
        for place, row in enumerate(self._rows):
            own = {name: values[place] for name, values in seen.items()}
            actions[place] = self._decide(row, own, actions[place])
        return actions

    def _decide(self, row: Row, observation: Mapping[str, np.ndarray], action: np.ndarray) -> np.ndarray:
        """Return what the robot of a row does, and record it."""
        mode, learnt, executed = AUTO, action, action
        label = self._label(row, observation, action)
        if label is not None:
            learnt = label
            if self._mode == "hg_dagger":
                mode = HUMAN if getattr(row.expert, "human", False) else EXPERT
                executed = label
        if row.trouble is None and np.isfinite(executed).all():
            row.recorder.add(observation, learnt, mode, label is not None, self._version)
        return executed

    def _label(
        self, row: Row, observation: Mapping[str, np.ndarray], action: np.ndarray
    ) -> np.ndarray | None:
        """Return what the expert gives at this step, or None."""
        expert = row.expert
        if self._mode == "policy" or expert is None or row.trouble is not None or not self._labels.left:
            return None
        if self._mode == "hg_dagger" and not self._ask(row, expert.takes_over, observation, action):
            return None
        if row.trouble is not None:
            return None
        label = self._ask(row, expert.act, observation)
        if row.trouble is not None:
            return None
        self._labels.used += 1
        label = np.asarray(label)
        shape = self._columns[ACTION].shape
        if label.shape != shape or label.dtype.kind not in "iuf" or not np.isfinite(label).all():
            self._note_trouble(row, f"it gave {_said(label)} and not {shape} finite numbers")
            return None
        return label.astype(action.dtype)

    def _ask(self, row: Row, method: Callable[..., object], *arguments: object) -> object:
        """Return what the expert says, or None where it raises; the episode is dropped then."""
        try:
            return method(*arguments)
        except Exception as error:  # whatever an expert of the user's raises is his to see
            self._note_trouble(row, f"{type(error).__name__}: {error}")
            return None

    def _note_trouble(self, row: Row, text: str) -> None:
        row.trouble = ExpertTrouble(row.recorder.start_seed or 0, len(row.recorder), text)


def collect(
    collecting: Collecting,
    rows: Sequence[Row],
    start_seeds: Sequence[int],
    max_steps: int,
    task: str,
    cameras: Sequence[str] = (),
    stop: Callable[[], bool] = lambda: False,
) -> list[Collected]:
    """Play one episode per start in lockstep, and return what came of each that has ended.

    Args:
        collecting: who acts.
        rows: the episodes, each with its simulator.
        start_seeds: where each of them starts.
        max_steps: the longest an episode may take.
        task: what the robot is to do, in words.
        cameras: what is looked through.
        stop: ends the collecting when it returns True; what is in flight is dropped.

    Raises:
        UsageError: see `trainer.evaluation.rollout.play`.
    """
    stopped = False

    def over(row: int) -> bool:
        nonlocal stopped
        stopped = stopped or stop()
        return stopped or rows[row].trouble is not None

    outcomes: dict[int, tuple[Outcome, bool]] = {}

    def ended(row: int, outcome: Outcome) -> None:
        outcomes[row] = (outcome, stopped)

    simulators = [row.simulator for row in rows]
    play(collecting, simulators, start_seeds, max_steps, cameras=cameras, ended=ended, stop=over)
    collected = []
    for place, row in enumerate(rows):
        outcome, in_flight = outcomes[place]
        whole = row.trouble is None and not (in_flight and not outcome.success)
        episode = row.recorder.episode(task, outcome.success) if whole else None
        collected.append(Collected(outcome, episode, row.trouble))
    return collected


def _said(value: np.ndarray) -> str:
    if value.dtype.kind not in "iuf":
        return f"values of {value.dtype}"
    return f"numbers of shape {value.shape}" + ("" if np.isfinite(value).all() else ", not all finite")
