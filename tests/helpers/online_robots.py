"""What collects in the tests: a small simulator, an expert, and a replay buffer that only remembers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np

from helpers.camera_families import CAMERAS, JOINTS
from helpers.policies import CAMERA
from helpers.tiny_experiment import ACTION, STATE
from trainer.online.episode import Episode, EpisodeError
from trainer.online.publisher import deployed_weights, policy_description
from trainer.registry import EXPERT_REGISTRY, SIMULATOR_REGISTRY
from trainer.templates import Callback, SimulatorStep

GAINS = np.random.default_rng(5).normal(size=(STATE, ACTION)).astype(np.float32)


@SIMULATOR_REGISTRY.register("drifting")
class Drift:
    """A state that drifts; the expert's action is a fixed function of it. `by:N` succeeds after N steps."""

    fps = 10
    max_steps = 12
    features: ClassVar[dict[str, Any]] = {
        "observation.state": {"dtype": "float32", "shape": (STATE,), "names": None},
        "action": {"dtype": "float32", "shape": (ACTION,), "names": None},
    }

    def __init__(self, task: str = "") -> None:
        self.task = task
        self._after = int(task.partition(":")[2] or 10**6)
        self.taken: list[np.ndarray] = []

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        self.seed, self.steps = seed, 0
        self._random = np.random.default_rng(seed)
        self._state = self._random.normal(size=STATE).astype(np.float32)
        self.taken = []
        return {"observation.state": self._state.copy()}

    def step(self, action: np.ndarray) -> SimulatorStep:
        self.steps += 1
        self.taken.append(np.array(action))
        self._state = (self._state + 0.1 * self._random.normal(size=STATE)).astype(np.float32)
        success = self.steps >= self._after
        return SimulatorStep({"observation.state": self._state.copy()}, 0.0, success, float(success), False)

    def expert_action(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        return observation["observation.state"] @ GAINS

    def render(self) -> np.ndarray:
        return np.zeros((8, 8, 3), np.uint8)

    def close(self) -> None:
        pass


@SIMULATOR_REGISTRY.register("painter")
class Painter:
    """A robot with a camera, which shows a number: the control step. `painter/24` plays for 24 of them."""

    fps = 10
    task = ""
    features: ClassVar[dict[str, Any]] = {
        "observation.state": {"dtype": "float32", "shape": (2,), "names": None},
        "action": {"dtype": "float32", "shape": (2,), "names": None},
    }
    cameras: ClassVar[dict[str, Any]] = {
        CAMERA: {"dtype": "video", "shape": (96, 96, 3), "names": ["height", "width", "channels"]}
    }

    def __init__(self, task: str = "") -> None:
        self.steps = 0
        self.max_steps = int(task or 6)

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        self.steps = 0
        return {"observation.state": np.zeros(2, np.float32)}

    def step(self, action: np.ndarray) -> SimulatorStep:
        self.steps += 1
        seen = {"observation.state": np.full(2, self.steps, np.float32)}
        return SimulatorStep(seen, 0.0, False, 0.0, False)

    def picture(self, camera: str) -> np.ndarray:
        shown = np.full((96, 96, 3), self.steps, np.uint8)
        shown[:10, :, 1] = 200
        return shown

    def render(self) -> np.ndarray:
        return self.picture(CAMERA)

    def close(self) -> None:
        pass


@SIMULATOR_REGISTRY.register("wanderer")
class Wanderer:
    """The robot of `camera_families`: many joints, currents, three cameras; it drifts whatever it does."""

    fps = 20
    max_steps = 44
    task = ""
    features: ClassVar[dict[str, Any]] = {
        name: {"dtype": "float32", "shape": (JOINTS,), "names": None}
        for name in ("observation.state", "observation.current", "action")
    }
    cameras: ClassVar[dict[str, Any]] = {
        f"observation.images.{name}": {"dtype": "video", "shape": (32, 32, 3), "names": None}
        for name in CAMERAS
    }

    def __init__(self, task: str = "") -> None:
        self.steps = 0

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        self._random = np.random.default_rng(seed)
        return self._measured()

    def step(self, action: np.ndarray) -> SimulatorStep:
        return SimulatorStep(self._measured(), 0.0, False, 0.0, False)

    def _measured(self) -> dict[str, np.ndarray]:
        names = ("observation.state", "observation.current")
        return {name: self._random.normal(size=JOINTS).astype(np.float32) for name in names}

    def picture(self, camera: str) -> np.ndarray:
        return self._random.integers(0, 256, (32, 32, 3), np.uint8)

    def render(self) -> np.ndarray:
        return self.picture("")

    def close(self) -> None:
        pass


@EXPERT_REGISTRY.register("by_the_clock")
class ByTheClock:
    """Takes over from step `start` to step `end`, and fails at step `fails` of some starts."""

    def __init__(
        self, start: int = 0, end: int = 10**6, fails: int | None = None, every_start: bool = True
    ) -> None:
        self.start, self.end, self.fails, self.every_start = start, end, fails, every_start

    def reset(self, robot: Any) -> None:
        self.robot = robot

    def act(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        failing = self.every_start or self.robot.seed % 2
        if self.fails is not None and self.robot.steps >= self.fails and failing:
            raise RuntimeError("the cable came loose")
        return self.robot.expert_action(dict(observation))

    def takes_over(self, observation: Mapping[str, np.ndarray], action: np.ndarray) -> bool:
        return self.start <= self.robot.steps < self.end


class Counted(NamedTuple):
    """How many episodes there are."""

    episodes: int


class Remembers:
    """A replay buffer that keeps episodes in a list."""

    def __init__(self, budget: int | None = None, longest: int = 4) -> None:
        self.episodes: list[Episode] = []
        self.keys: list[str] = []
        self.budget, self.longest = budget, longest
        self.grants: dict[str, int] = {}
        self.reason: str | None = None

    def add(self, episode: Episode, key: str | None = None) -> int:
        if len(episode) < self.longest:
            raise EpisodeError(f"the episode has {len(episode)} steps, fewer than {self.longest}")
        self.episodes.append(episode)
        self.keys.append(str(key))
        self.return_labels(episode.labels, episode.source)
        return len(self.episodes) - 1

    def grant_labels(self, asked: int, source: str = "") -> int:
        if self.budget is None:
            return asked
        others = sum(count for name, count in self.grants.items() if name != source)
        self.grants[source] = max(0, min(asked, self.budget - self.labels - others))
        return self.grants[source]

    def return_labels(self, labels: int | None = None, source: str = "") -> None:
        self.grants[source] = max(0, self.grants.get(source, 0) - (labels or 0))

    def may_collect(self) -> str | None:
        return self.reason

    def counts(self) -> Any:
        return Counted(len(self.episodes))

    @property
    def labels(self) -> int:
        return sum(episode.labels for episode in self.episodes)


class Publishes(Callback):
    """Publishes at the end of a run, and every so many updates.

    Args:
        manager: takes the versions.
        every: updates between two versions.
        bf16: of `deployed_weights`.
    """

    def __init__(self, manager: Any, every: int | None = None, bf16: bool = False) -> None:
        self.manager, self.every, self.bf16 = manager, every, bf16
        self.sent: list[dict[str, dict[str, np.ndarray]]] = []

    def after_step(self, experiment: Any, metrics: Mapping[str, Any]) -> None:
        if self.every is not None and experiment.progress.iteration % self.every == 0:
            self.publish(experiment)

    def after_training(self, experiment: Any) -> None:
        self.publish(experiment)

    def publish(self, experiment: Any) -> None:
        self.sent.append(copy.deepcopy(deployed_weights(experiment, self.bf16)))
        description = policy_description(experiment)
        step = experiment.progress.iteration
        self.manager.update_weights(self.sent[-1], step=step, description=description)
