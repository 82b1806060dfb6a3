"""Policies for the tests of rollouts: the scripted expert, and broken ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from trainer.evaluation.simulators import make_simulator


class ExpertPolicy:
    """Meta-World's expert as a robot policy; some starts (by their seeds) it does not even try."""

    def __init__(self, env: str, gives_up: Callable[[int], bool] = lambda seed: False) -> None:
        self.simulator = make_simulator(env)
        self.gives_up = gives_up
        self.seeds: list[int] = []
        self.batches: list[int] = []

    def reset(self, seeds: int | Sequence[int] = 0) -> None:
        self.seeds = [seeds] if isinstance(seeds, int) else list(seeds)

    def keep(self, rows: Sequence[int]) -> None:
        self.seeds = [self.seeds[row] for row in rows]

    def act(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        states = observation["observation.state"]
        assert len(states) == len(self.seeds)
        self.batches.append(len(states))
        actions = [
            np.zeros(4, np.float32)
            if self.gives_up(seed)
            else self.simulator.expert_action({"observation.state": state})
            for seed, state in zip(self.seeds, states, strict=True)
        ]
        return np.stack(actions)


class ConstantPolicy:
    """The same action always."""

    def __init__(self, action: Sequence[float]) -> None:
        self.action = np.asarray(action, np.float32)
        self.rows = 0

    def reset(self, seeds: int | Sequence[int] = 0) -> None:
        self.rows = 1 if isinstance(seeds, int) else len(seeds)

    def keep(self, rows: Sequence[int]) -> None:
        self.rows = len(rows)

    def act(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.tile(self.action, (self.rows, 1))
