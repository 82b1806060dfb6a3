"""How often a policy succeeds in a simulator, with intervals, a table of episodes, and films."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer.data.columns import Columns
from trainer.evaluation.intervals import score_interval, wilson_interval
from trainer.evaluation.rollout import Outcome, fit_cameras, play
from trainer.evaluation.simulators import make_simulator
from trainer.evaluation.starts import start_seeds
from trainer.evaluation.video import write_video
from trainer.runtime import Runtime
from trainer.templates import RobotPolicy, Simulator
from trainer.templates.simulator import RecordsThroughCameras, SeesThroughCameras
from trainer.utils.errors import UsageError
from trainer.utils.files import whole_file, write_json
from trainer.utils.progress import progress_bar
from trainer.utils.versions import library_versions

_ALONE = Runtime(torch.device("cpu"))
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
    dataset: str | None = None,
    runtime: Runtime = _ALONE,
) -> EvaluationResult:
    """Try a policy out on `episodes` starts that no recording ever used.

    Ranks share the starts: start i is played by rank i % world_size, and what it comes to depends on that
    only as far as a batched policy sums in another order. Each rank calls this with the same arguments and
    gets the whole result; rank 0 writes it.

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
        dataset: the robot that the policy was asked to be, for the record.
        runtime: this rank.

    Raises:
        UsageError: no such simulator, it is not the policy's, it runs at another rate than `policy.fps`, or
            the policy's actions cannot be used; one sentence says which.
        RankLost: another rank could not play its share.
    """
    if episodes < 1 or lockstep < 1:
        raise UsageError(f"episodes and lockstep must be at least 1; they are {episodes} and {lockstep}")
    if max_steps is not None and max_steps < 1:
        raise UsageError(f"max_steps must be at least 1, and {max_steps} is not")
    numbers = range(runtime.rank, episodes, runtime.world_size)
    all_starts = start_seeds(seed, episodes, "evaluation")
    starts = [all_starts[number] for number in numbers]
    observed: Columns = getattr(policy, "observations", {})
    sizes = {name: column.shape[-1] for name, column in observed.items() if column.is_picture}
    simulators: list[Simulator] = []
    began = time.perf_counter()
    try:
        for _ in range(max(1, min(lockstep, len(starts)))):
            simulators.append(make_simulator(env))
            fit_cameras(simulators[-1], sizes)
        check_features(features or {}, SimulatedRobot.of(simulators[0], env), getattr(policy, "fps", None))
        limit = min(max_steps or simulators[0].max_steps, simulators[0].max_steps)
        crew = _FilmCrew(numbers, videos if out is not None else 0)
        seen = _cameras_of(policy, simulators[0])
        outcomes = _play_all(policy, env, simulators, starts, limit, seen, crew, progress and runtime.is_main)
    finally:
        for simulator in simulators:
            simulator.close()
    runtime.barrier()  # a rank may have drawn the long episodes
    shares = runtime.from_main(runtime.gather((outcomes, crew.films, crew.notes)))
    outcomes = _dealt_in_turn([share[0] for share in shares])
    films: dict[int, bytes] = {number: film for share in shares for number, film in share[1].items()}
    result = EvaluationResult(
        env=env,
        checkpoint=checkpoint,
        seed=seed,
        max_steps=limit,
        n_action_steps=getattr(policy, "n_action_steps", None),
        outcomes=outcomes,
        videos=[_film_name(number) if number in films else None for number in range(episodes)],
        control_steps_per_s=sum(o.length for o in outcomes) / (time.perf_counter() - began),
        dataset=dataset,
        temporal_ensembling=getattr(policy, "temporal_ensembling", None),
        notes=list(dict.fromkeys(note for share in shares for note in share[2])),
        folder=out,
    )
    if out is not None and runtime.is_main:
        _write(out, result, films)
    return result


def _dealt_in_turn(shares: Sequence[Sequence[Outcome]]) -> list[Outcome]:
    """Return the outcomes of all episodes in order, of which rank r played r, r + world size, and so on."""
    rounds = itertools.zip_longest(*shares)
    return [outcome for one_each in rounds for outcome in one_each if outcome is not None]


def _film_name(episode: int) -> str:
    return f"episode_{episode:03d}.mp4"


def _write(out: Path, result: EvaluationResult, films: Mapping[int, bytes]) -> None:
    """Write results and films in the place of those of an earlier evaluation into the same folder."""
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("episode_*.mp4"):
        old.unlink()
    for number, film in films.items():
        with whole_file(out / _film_name(number)) as temporary:
            temporary.write_bytes(film)
    write_json(out / "results.json", result.to_dict())


@dataclass(frozen=True)
class SimulatedRobot:
    """What a simulator says of its robot.

    Attributes:
        env: name of the simulator and task.
        features: descriptions of observations and `action`, by name.
        cameras: those of its cameras.
        fps: actions per second.
        any_size: its pictures may have any size, as long as they are square.
    """

    env: str
    features: Mapping[str, Any]
    cameras: Mapping[str, Any]
    fps: float
    any_size: bool = False

    @classmethod
    def of(cls, simulator: Simulator, env: str) -> SimulatedRobot:
        """Return the robot of a simulator and its name."""
        if isinstance(simulator, RecordsThroughCameras):
            features = {**simulator.features, **simulator.sensors}
            return cls(env, features, dict(simulator.cameras), simulator.fps, any_size=True)
        return cls(env, dict(simulator.features), dict(getattr(simulator, "cameras", {})), simulator.fps)


def check_features(
    wanted: Mapping[str, Sequence[int]], robot: SimulatedRobot, fps: float | None = None
) -> None:
    """Make sure that a simulator is that of the robot for which a policy is trained.

    Args:
        wanted: shapes of the observations that the policy reads and of its actions, by name.
        robot: what the simulator says of its robot.
        fps: frames per second of the demonstrations, if known.

    Raises:
        UsageError: it lacks one of them, has it in another shape, or takes actions at another rate than that
            of the demonstrations, so that each would last longer or shorter than it was recorded.
    """
    offers = {**robot.features, **robot.cameras}
    if robot.any_size:
        squares = {name: (*shape[:1], *shape[:1], 3) for name, shape in wanted.items()}
        offers |= {name: {"shape": squares[name]} for name in squares.keys() & robot.cameras.keys()}
    for name, shape in wanted.items():
        offered = offers.get(name)
        if offered is None:
            raise UsageError(f"the policy works with '{name}', which {robot.env} does not have")
        if tuple(shape) != tuple(offered["shape"]):
            raise UsageError(
                f"the policy works with '{name}' of shape {tuple(shape)}; in {robot.env} it has "
                f"shape {tuple(offered['shape'])}"
            )
    if fps is not None and abs(fps - robot.fps) > 0.01 * robot.fps:
        raise UsageError(
            f"the policy was trained on demonstrations of {fps:g} frames/s, and {robot.env} takes "
            f"{robot.fps:g} actions per second: each would last {fps / robot.fps:.3g} "
            f"times as long as it was recorded; train on demonstrations of {robot.fps:g} frames/s"
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
    """Films the first episodes, and gives up with a note where nothing can be drawn.

    Args:
        numbers: of the episodes that this rank plays, among those of all ranks.
        videos: so many episodes of all ranks are filmed.
    """

    def __init__(self, numbers: Sequence[int], videos: int) -> None:
        self.films: dict[int, bytes] = {}
        self.notes: list[str] = []
        self._numbers = numbers
        self._videos = videos
        self._reels: dict[int, list[np.ndarray]] = {}

    def watch(self, row: int, step: int, simulator: Simulator) -> None:
        """Take a picture of every few states of an episode that is filmed."""
        if self._numbers[row] < self._videos and step % _every(simulator) == 0:
            self._take(self._numbers[row], simulator)

    def ended(self, row: int, simulator: Simulator) -> None:
        """Make the film of an episode; its last state is held for a second, so that one sees it."""
        episode = self._numbers[row]
        if episode >= self._videos:
            return
        self._take(episode, simulator)
        frames = self._reels.pop(episode, [])
        if not frames:
            return
        fps = simulator.fps / _every(simulator)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / _film_name(episode)
            try:
                write_video(path, frames + [frames[-1]] * round(fps), fps)
            except RuntimeError as error:
                self._give_up(error)
            else:
                self.films[episode] = path.read_bytes()

    def _take(self, episode: int, simulator: Simulator) -> None:
        try:
            self._reels.setdefault(episode, []).append(simulator.render())
        except RuntimeError as error:
            self._give_up(error)

    def _give_up(self, error: RuntimeError) -> None:
        self._videos = 0
        self._reels.clear()
        self.notes.append(f"no videos were made: {error}")


def _every(simulator: Simulator) -> int:
    """Return at which multiple of control steps a picture is taken."""
    return max(1, round(simulator.fps / FILM_FPS))
