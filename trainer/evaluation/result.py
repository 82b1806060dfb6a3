"""What an evaluation measured, with intervals."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trainer.evaluation.intervals import score_interval, wilson_interval
from trainer.evaluation.rollout import Outcome
from trainer.utils.versions import library_versions


@dataclass(frozen=True)
class EvaluationResult:
    """What an evaluation measured; `to_dict` is the content of `results.json`.

    Attributes:
        env: name of the simulator and task.
        checkpoint: what was evaluated, as text.
        seed: the seed that chose the starts.
        max_steps: the longest an episode was allowed to take.
        n_action_steps: actions of a chunk that were executed, where the policy says it.
        temporal_ensembling: m, where overlapping chunks were averaged.
        dataset: of a policy trained on several datasets, the one whose robot it was asked to be.
        outcomes: one per episode, in the order of their start seeds.
        videos: per episode the file name of its film, or None.
        control_steps_per_s: control steps per second of the whole evaluation, drawing included.
        versions: of the libraries on which the numbers depend.
        notes: sentences that a reader of the numbers should know.
        folder: where `results.json` and the films lie, if they were written.
    """

    env: str
    checkpoint: str | None
    seed: int
    max_steps: int
    n_action_steps: int | None
    outcomes: list[Outcome]
    videos: list[str | None]
    control_steps_per_s: float
    dataset: str | None = None
    temporal_ensembling: float | None = None
    versions: dict[str, str] = field(default_factory=library_versions)
    notes: list[str] = field(default_factory=list)
    folder: Path | None = None

    @property
    def episodes(self) -> int:
        """Number of episodes."""
        return len(self.outcomes)

    @property
    def success_rate(self) -> float:
        """Share of successful episodes."""
        return sum(o.success for o in self.outcomes) / self.episodes

    @property
    def success_interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the success rate."""
        return wilson_interval(sum(o.success for o in self.outcomes), self.episodes)

    @property
    def mean_score(self) -> float:
        """Mean over episodes of the largest score."""
        return float(np.mean([o.score for o in self.outcomes]))

    @property
    def score_interval(self) -> tuple[float, float]:
        """95 % interval of the mean score; see `trainer.evaluation.intervals.score_interval`."""
        return score_interval([o.score for o in self.outcomes])

    @property
    def mean_length(self) -> float:
        """Mean number of control steps, failed episodes included."""
        return float(np.mean([o.length for o in self.outcomes]))

    @property
    def mean_return(self) -> float:
        """Mean sum of rewards."""
        return float(np.mean([o.total_reward for o in self.outcomes]))

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {
            "env": self.env,
            "checkpoint": self.checkpoint,
            "seed": self.seed,
            "start_seeds": [o.seed for o in self.outcomes],
            "max_steps": self.max_steps,
            "n_action_steps": self.n_action_steps,
            "temporal_ensembling": self.temporal_ensembling,
            "dataset": self.dataset,
            "success_rate": self.success_rate,
            "success_interval": list(self.success_interval),
            "mean_score": self.mean_score,
            "score_interval": list(self.score_interval),
            "mean_length": self.mean_length,
            "mean_return": self.mean_return,
            "control_steps_per_s": self.control_steps_per_s,
            "episodes": [
                {
                    "episode": number,
                    "seed": outcome.seed,
                    "success": outcome.success,
                    "score": outcome.score,
                    "length": outcome.length,
                    "return": outcome.total_reward,
                    "video": video,
                }
                for number, (outcome, video) in enumerate(zip(self.outcomes, self.videos, strict=True))
            ],
            "versions": self.versions,
            "notes": self.notes,
        }

    def summary(self) -> str:
        """Return one sentence."""
        low, high = self.success_interval
        score_low, score_high = self.score_interval
        return (
            f"{self.env}: success {self.success_rate:.1%} (95 % interval {low:.1%} to {high:.1%}), "
            f"mean score {self.mean_score:.3f} ({score_low:.3f} to {score_high:.3f}), "
            f"mean length {self.mean_length:.0f} of at most {self.max_steps} steps, "
            f"over {self.episodes} episodes."
        )
