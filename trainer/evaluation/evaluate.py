"""How often a policy succeeds in a simulator, with intervals, a table of episodes, and films."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trainer.evaluation.intervals import score_interval, wilson_interval
from trainer.evaluation.rollout import Outcome, play
from trainer.evaluation.simulators import make_simulator
from trainer.evaluation.starts import start_seeds
from trainer.evaluation.video import write_video
from trainer.templates import RobotPolicy, Simulator
from trainer.templates.simulator import SeesThroughCameras
from trainer.utils.files import write_json
from trainer.utils.progress import progress_bar
from trainer.utils.versions import library_versions

FILM_FPS = 20
"""Films show about so many of a second's states, as drawing costs far more than simulating."""


@dataclass(frozen=True)
class EvaluationResult:
    """What an evaluation measured; `to_dict` is the content of `results.json`.

    Attributes:
        env: name of the simulator and task.
        checkpoint: what was evaluated, as text.
        seed: the seed that chose the starts.
        max_steps: the longest an episode was allowed to take.
        n_action_steps: actions of a chunk that were executed, where the policy says it.
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


def evaluate(
    policy: RobotPolicy,
    env: str,
    *,
    episodes: int,
    seed: int,
    out: Path | None,
    videos: int = 4,
    lockstep: int = 50,
    max_steps: int | None = None,
    progress: bool = True,
    checkpoint: str | None = None,
    features: Mapping[str, Sequence[int]] | None = None,
) -> EvaluationResult:
    """Try a policy out on `episodes` starts that no recording ever used.

    Args:
        policy: raw observations in, raw actions out.
        env: name of the simulator and task, such as `pusht`.
        episodes: number of episodes.
        seed: chooses the starts; see `trainer.evaluation.starts`.
        out: folder for `results.json` and the films; None writes nothing.
        videos: so many episodes are filmed, beginning with the first.
        lockstep: episodes that are played at once, with one call of the policy per step. It changes the
            time and the memory (a Meta-World simulation holds 21 MB); the results only as far as a batched
            policy sums in another order.
        max_steps: the longest an episode may take; the simulator's own limit if not given.
        progress: show a progress bar on stderr.
        checkpoint: what is evaluated, for the record.
        features: shapes of the observations that the policy reads and of the actions that it gives, by name;
            compared with the simulator's before anything is played.

    Raises:
        ValueError: no such simulator, it is not the policy's, or the policy's actions cannot be used; one
            sentence says which.
    """
    if episodes < 1 or lockstep < 1:
        raise ValueError(f"episodes and lockstep must be at least 1; they are {episodes} and {lockstep}")
    if max_steps is not None and max_steps < 1:
        raise ValueError(f"max_steps must be at least 1, and {max_steps} is not")
    starts = start_seeds(seed, episodes, "evaluation")
    simulators: list[Simulator] = []
    try:
        for _ in range(min(lockstep, episodes)):
            simulators.append(make_simulator(env))
        _check_features(features or {}, env, simulators[0])
        limit = min(max_steps or simulators[0].max_steps, simulators[0].max_steps)
        crew = _FilmCrew(out, videos if out is not None else 0)
        seen = _cameras_of(policy, simulators[0])
        began = time.perf_counter()
        outcomes = _play_all(policy, env, simulators, starts, limit, seen, crew, progress)
        seconds = time.perf_counter() - began
    finally:
        for simulator in simulators:
            simulator.close()
    result = EvaluationResult(
        env=env,
        checkpoint=checkpoint,
        seed=seed,
        max_steps=limit,
        n_action_steps=getattr(policy, "n_action_steps", None),
        outcomes=outcomes,
        videos=[crew.files.get(number) for number in range(episodes)],
        control_steps_per_s=sum(o.length for o in outcomes) / seconds,
        notes=crew.notes,
        folder=out,
    )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "results.json", result.to_dict())
    return result


def _check_features(wanted: Mapping[str, Sequence[int]], env: str, simulator: Simulator) -> None:
    offers = {**simulator.features, **getattr(simulator, "cameras", {})}
    for name, shape in wanted.items():
        offered = offers.get(name)
        if offered is None:
            raise ValueError(f"the policy works with '{name}', which {env} does not have")
        if tuple(shape) != tuple(offered["shape"]):
            raise ValueError(
                f"the policy was trained on '{name}' of shape {tuple(shape)}; in {env} it has "
                f"shape {tuple(offered['shape'])}"
            )


def _cameras_of(policy: RobotPolicy, simulator: Simulator) -> list[str]:
    """Return the simulator's cameras that the policy looks through."""
    if not isinstance(simulator, SeesThroughCameras):
        return []
    return [name for name in simulator.cameras if name in getattr(policy, "observation_windows", ())]


def _play_all(
    policy: RobotPolicy,
    env: str,
    simulators: Sequence[Simulator],
    starts: Sequence[int],
    max_steps: int,
    cameras: Sequence[str],
    crew: _FilmCrew,
    progress: bool,
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    finished = successes = 0
    with progress_bar(len(starts), f"evaluating {env}", unit="episode", disable=not progress) as bar:
        for first in range(0, len(starts), len(simulators)):

            def watch(row: int, step: int, simulator: Simulator, first: int = first) -> None:
                crew.watch(first + row, step, simulator)

            def ended(row: int, outcome: Outcome, first: int = first) -> None:
                nonlocal finished, successes
                crew.ended(first + row, simulators[row])
                finished += 1
                successes += outcome.success
                bar.set_postfix_str(f"success {successes / finished:.0%}", refresh=False)
                bar.update()

            group = starts[first : first + len(simulators)]
            outcomes += play(policy, simulators, group, max_steps, cameras=cameras, watch=watch, ended=ended)
    return outcomes


class _FilmCrew:
    """Films the first episodes, and gives up with a note where nothing can be drawn."""

    def __init__(self, folder: Path | None, videos: int) -> None:
        self.folder = folder
        self.videos = videos
        self.files: dict[int, str] = {}
        self.notes: list[str] = []
        self._reels: dict[int, list[np.ndarray]] = {}
        if folder is not None:
            for old in folder.glob("episode_*.mp4"):  # of an earlier evaluation into the same folder
                old.unlink()

    def watch(self, episode: int, step: int, simulator: Simulator) -> None:
        """Take a picture of every few states of an episode that is filmed."""
        if episode < self.videos and step % _every(simulator) == 0:
            self._take(episode, simulator)

    def ended(self, episode: int, simulator: Simulator) -> None:
        """Write the film of an episode; its last state is held for a second, so that one sees it."""
        if episode >= self.videos:
            return
        self._take(episode, simulator)
        frames = self._reels.pop(episode, [])
        if not frames or self.folder is None:
            return
        fps = simulator.fps / _every(simulator)
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"episode_{episode:03d}.mp4"
        try:
            write_video(self.folder / name, frames + [frames[-1]] * round(fps), fps)
        except RuntimeError as error:
            self._give_up(error)
        else:
            self.files[episode] = name

    def _take(self, episode: int, simulator: Simulator) -> None:
        try:
            self._reels.setdefault(episode, []).append(simulator.render())
        except RuntimeError as error:
            self._give_up(error)

    def _give_up(self, error: RuntimeError) -> None:
        self.videos = 0
        self._reels.clear()
        self.notes.append(f"no videos were made: {error}")


def _every(simulator: Simulator) -> int:
    """Return at which multiple of control steps a picture is taken."""
    return max(1, round(simulator.fps / FILM_FPS))
