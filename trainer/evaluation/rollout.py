"""Playing episodes of one policy in several simulators at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.templates import RobotPolicy, Simulator
from trainer.templates.simulator import RecordsThroughCameras, SeesThroughCameras
from trainer.utils.errors import UsageError

Watch = Callable[[int, int, Simulator], None]
"""Called with row, control step (0 after the reset) and simulator, while the row's episode runs."""


@dataclass
class Outcome:
    """How one episode went.

    Attributes:
        seed: its start seed.
        success: whether the simulator reported success at any step.
        score: the largest score of any step, in [0, 1].
        length: control steps.
        total_reward: sum of the rewards, undiscounted.
    """

    seed: int
    success: bool = False
    score: float = 0.0
    length: int = 0
    total_reward: float = 0.0


def play(
    policy: RobotPolicy,
    simulators: Sequence[Simulator],
    start_seeds: Sequence[int],
    max_steps: int,
    *,
    cameras: Sequence[str] = (),
    watch: Watch | None = None,
    ended: Callable[[int, Outcome], None] | None = None,
    stop: Callable[[int], bool] = lambda row: False,
) -> list[Outcome]:
    """Play one episode per start seed in lockstep: one call of the policy per control step.

    An episode ends at success, when its simulator says so, or after `max_steps`; its row then leaves the
    batch, so that the last slow episodes do not pay for the others. An episode depends on its start seed
    only, apart from the order in which a batched policy sums.

    Args:
        policy: raw observations in, raw actions out; it is seeded with the start seeds.
        simulators: at least one per start seed, all of one kind.
        start_seeds: where each episode starts.
        max_steps: the longest an episode may take.
        cameras: what the policy may look through; a picture is drawn when it is read from an observation.
        watch: sees every state of every running episode.
        ended: is told of each episode as it ends.
        stop: asked after every step of a row; its episode ends where it returns True.

    Raises:
        UsageError: the policy returned NaN, an infinite number, or actions of a wrong shape; or it sees
            through a camera, and nothing can be drawn on this machine.
    """
    assert len(simulators) >= len(start_seeds)
    outcomes = [Outcome(seed) for seed in start_seeds]
    observations = [simulator.reset(seed) for simulator, seed in zip(simulators, start_seeds, strict=False)]
    policy.reset(list(start_seeds))
    rows = list(range(len(start_seeds)))
    if watch is not None:
        for row in rows:
            watch(row, 0, simulators[row])
    while rows:
        shown = _Shown([observations[row] for row in rows], [simulators[row] for row in rows], cameras)
        actions = policy.act(shown)
        shown.cameras = ()
        _check_actions(actions, [outcomes[row] for row in rows], simulators[rows[0]].features["action"])
        going = []
        for place, row in enumerate(rows):
            step = simulators[row].step(actions[place])
            over = step.success or step.done or stop(row)
            observations[row] = step.observation
            outcome = outcomes[row]
            outcome.length += 1
            outcome.success |= step.success
            outcome.score = max(outcome.score, step.score)
            outcome.total_reward += step.reward
            if watch is not None:
                watch(row, outcome.length, simulators[row])
            if not (over or outcome.length >= max_steps):
                going.append(place)
            elif ended is not None:
                ended(row, outcome)
        if going and len(going) < len(rows):
            policy.keep(going)
        rows = [rows[place] for place in going]
    return outcomes


class _Shown(Mapping[str, np.ndarray]):
    """What a policy is shown at a step, `(N, …)` each: a picture is drawn if and when the policy reads it.

    Args:
        observations: of each episode.
        simulators: those that the episodes run in.
        cameras: what may be looked through, until it is emptied: the simulators go on after the step.
    """

    def __init__(
        self,
        observations: Sequence[dict[str, np.ndarray]],
        simulators: Sequence[Simulator],
        cameras: Sequence[str],
    ) -> None:
        self._values = {name: np.stack([o[name] for o in observations]) for name in observations[0]}
        self._simulators = simulators
        self.cameras = cameras

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._values and name in self.cameras:
            self._values[name] = np.stack([picture_of(s, name, "the policy") for s in self._simulators])
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        return name in self._values or name in self.cameras

    def __iter__(self) -> Iterator[str]:
        return iter({**self._values, **dict.fromkeys(self.cameras)})

    def __len__(self) -> int:
        return len({*self._values, *self.cameras})


def fit_cameras(simulator: Simulator, sizes: Mapping[str, int]) -> None:
    """Let the cameras of a simulator that can draw any size draw that of their feature, in px."""
    if isinstance(simulator, RecordsThroughCameras):
        for name in simulator.cameras.keys() & sizes.keys():
            simulator.set_camera_size(name, sizes[name])


def picture_of(simulator: Simulator, camera: str, who: str) -> np.ndarray:
    """Return what a camera sees, uint8 `(H, W, 3)`.

    Raises:
        UsageError: nothing can be drawn on this machine; it tells `who` needs it.
    """
    assert isinstance(simulator, SeesThroughCameras)
    try:
        return simulator.picture(camera)
    except RuntimeError as error:
        raise UsageError(f"{who} sees through {camera}, but {error}") from error


def _check_actions(actions: np.ndarray, outcomes: list[Outcome], feature: dict[str, Any]) -> None:
    wanted = (len(outcomes), *feature["shape"])
    if np.shape(actions) != wanted:
        raise UsageError(
            f"the policy returned actions of shape {tuple(np.shape(actions))}; the simulator takes {wanted}"
        )
    broken = np.flatnonzero(~np.isfinite(actions).all(axis=1))
    if broken.size:
        outcome = outcomes[int(broken[0])]
        raise UsageError(
            f"the policy returned NaN or an infinite action at step {outcome.length} of the episode "
            f"with start seed {outcome.seed}"
        )
