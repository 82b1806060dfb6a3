"""How often a policy succeeds in a simulator, with intervals, a table of episodes, and films."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from trainer.data.columns import Columns
from trainer.evaluation.films import FilmCrew, film_name
from trainer.evaluation.result import EvaluationResult
from trainer.evaluation.rollout import Outcome, fit_cameras, play
from trainer.evaluation.simulated_robot import SimulatedRobot, check_features
from trainer.evaluation.simulators import make_simulator
from trainer.evaluation.starts import start_seeds
from trainer.runtime import Runtime
from trainer.templates import RobotPolicy, Simulator
from trainer.templates.simulator import SeesThroughCameras
from trainer.utils.errors import UsageError
from trainer.utils.files import whole_file, write_json
from trainer.utils.progress import progress_bar

_ALONE = Runtime(torch.device("cpu"))


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
        crew = FilmCrew(numbers, videos if out is not None else 0)
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
        videos=[film_name(number) if number in films else None for number in range(episodes)],
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


def _write(out: Path, result: EvaluationResult, films: Mapping[int, bytes]) -> None:
    """Write results and films in the place of those of an earlier evaluation into the same folder."""
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("episode_*.mp4"):
        old.unlink()
    for number, film in films.items():
        with whole_file(out / film_name(number)) as temporary:
            temporary.write_bytes(film)
    write_json(out / "results.json", result.to_dict())


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
    crew: FilmCrew,
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
