"""A simulator's own expert, who labels, and takes over where the policy does something else for a while."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from trainer.config.parameters import Positive, PositiveNumber
from trainer.evaluation.demonstrations import ScriptedExpert
from trainer.registry import EXPERT_REGISTRY
from trainer.utils.errors import UsageError

_USUAL_RANGE = 2.0  # of actions from -1 to 1


@EXPERT_REGISTRY.register("scripted")
class ScriptedTakeover:
    """Asks the simulator what its expert would do.

    It takes over when the policy's action and the expert's have differed by more than `threshold` for
    `patience` control steps in a row, and hands back once they have agreed for as many, but not before `hold`
    steps. To compare the two is no label; what `act` returns is one.

    Args:
        threshold: the largest difference of any dimension, as a share of the range that the demonstrations'
            actions have there.
        patience: control steps in a row.
        hold: the fewest control steps of a takeover.
        late: control steps of an episode after which the expert brings it to its end; null: never.
        action_range: of the demonstrations, `(A,)`; 2 in each dimension if not known.
    """

    def __init__(
        self,
        threshold: PositiveNumber = 0.3,
        patience: Positive = 5,
        hold: Positive = 10,
        late: Positive | None = None,
        action_range: np.ndarray | None = None,
    ) -> None:
        self._threshold, self._patience, self._hold, self._late = threshold, patience, hold, late
        self._range = None if action_range is None else np.asarray(action_range, np.float64)
        self._robot: ScriptedExpert | None = None
        self._said: tuple[Mapping[str, np.ndarray], np.ndarray] | None = None
        self._moves = False
        self._step = self._against = self._moved = 0

    def reset(self, robot: Any) -> None:
        """Begin an episode in a simulator.

        Raises:
            UsageError: it has no expert.
        """
        if not isinstance(robot, ScriptedExpert):
            raise UsageError(
                f"{type(robot).__name__} has no scripted expert, so online.expert must be another"
            )
        self._robot = robot
        self._said = None
        self._moves = False
        self._step = self._against = self._moved = 0

    def act(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return what the simulator's expert does."""
        return self._expert_action(observation)

    def takes_over(self, observation: Mapping[str, np.ndarray], action: np.ndarray) -> bool:
        """Return whether the expert moves the robot now."""
        self._step += 1
        if self._late is not None and self._step > self._late:
            return True
        differs = self._differs(action, self._expert_action(observation))
        # Steps in a row that speak against whoever moves the robot.
        self._against = self._against + 1 if differs != self._moves else 0
        held = self._moved >= self._hold or not self._moves
        if self._against >= self._patience and held:
            self._moves, self._against, self._moved = not self._moves, 0, 0
        self._moved += self._moves
        return self._moves

    def _expert_action(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        # Some experts remember what they did, so each is asked once for every step.
        if self._said is None or self._said[0] is not observation:
            assert self._robot is not None
            self._said = (observation, self._robot.expert_action(dict(observation)))
        return self._said[1]

    def _differs(self, action: np.ndarray, expert: np.ndarray) -> bool:
        scale = np.full(expert.shape, _USUAL_RANGE) if self._range is None else self._range
        moving = scale > 0
        return bool((np.abs(action - expert)[moving] > self._threshold * scale[moving]).any())
