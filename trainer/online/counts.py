"""What was collected so far, in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from trainer.online.episode import MODES, Episode

LAST = 50
"""Episodes whose outcomes are kept one by one."""


class Size(NamedTuple):
    """How much there is to draw from.

    Attributes:
        windows: that may be drawn.
        steps: that are in memory.
    """

    windows: int
    steps: int


class Outcomes(NamedTuple):
    """Episodes of one version of the weights, and how many of them came to their goal."""

    episodes: int
    successes: int


@dataclass(frozen=True)
class Counts:
    """What was ever accepted, also what has made way in memory.

    Attributes:
        episodes: number of episodes.
        steps: control steps in them.
        labels: actions that an expert or a person gave.
        modes: who moved the robot (`auto`, `expert`, `human`) → steps.
        versions: version of the weights → its episodes; an episode is that of its newest version.
        outcomes: of the last 50 episodes, in their order, whether they came to their goal.
        updates: that the learner has noted.
        windows: that may be drawn now.
    """

    episodes: int = 0
    steps: int = 0
    labels: int = 0
    modes: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(MODES.values(), 0))
    versions: Mapping[int, Outcomes] = field(default_factory=dict)
    outcomes: tuple[bool, ...] = ()
    updates: int = 0
    windows: int = 0

    def with_episode(self, episode: Episode) -> Counts:
        """Return the counts with one more episode."""
        before = self.versions.get(episode.version, Outcomes(0, 0))
        outcome = Outcomes(before.episodes + 1, before.successes + episode.success)
        modes = {
            name: self.modes[name] + int(np.count_nonzero(episode.control_mode == mode))
            for mode, name in MODES.items()
        }
        return replace(
            self,
            episodes=self.episodes + 1,
            steps=self.steps + len(episode),
            labels=self.labels + episode.labels,
            modes=modes,
            versions={**self.versions, episode.version: outcome},
            outcomes=(*self.outcomes, episode.success)[-LAST:],
        )

    def scores(self) -> dict[str, float]:
        """Return what is worth a curve; the success is that of the last episodes, if there are any."""
        scores = {
            "collected_episodes": float(self.episodes),
            "collected_steps": float(self.steps),
            "expert_labels": float(self.labels),
            "usable_windows": float(self.windows),
        }
        if self.outcomes:
            scores["collected_success"] = float(np.mean(self.outcomes))
        return scores
