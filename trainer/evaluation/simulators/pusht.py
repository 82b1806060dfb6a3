"""Push-T: a disc pushes a T onto its outline (Chi et al., 2023), through gym-pusht."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from trainer.registry import SIMULATOR_REGISTRY
from trainer.templates import SimulatorStep
from trainer.utils.errors import UsageError

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # before pygame is imported: no window, no screen
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
from gym_pusht.envs.pusht import PushTEnv

FEATURES: dict[str, dict[str, Any]] = {
    "observation.state": {"dtype": "float32", "shape": (2,), "names": ["agent_x", "agent_y"]},
    "observation.environment_state": {
        "dtype": "float32",
        "shape": (3,),
        "names": ["block_x", "block_y", "block_angle"],
    },
    "action": {"dtype": "float32", "shape": (2,), "names": ["target_x", "target_y"]},
}
"""Positions in px of a 512 by 512 field, the angle in radians within [0, 2π), as in lerobot's Push-T data."""

CAMERAS: dict[str, dict[str, Any]] = {
    "observation.image": {"dtype": "image", "shape": (96, 96, 3), "names": ["height", "width", "channels"]},
}
"""The picture that lerobot's Push-T data have: the whole field, without the cross of the target."""


@SIMULATOR_REGISTRY.register("pusht")
class PushTSimulator:
    """Push-T at 10 Hz, at most 300 steps.

    The score at a step is coverage / 0.95 clipped at 1, so that the score of an episode is its maximal
    coverage on that scale; success is a coverage above 0.95, and ends the episode.

    Args:
        task: must be empty: there is one task.
        picture_size: edge of the rendered picture in px.

    Raises:
        UsageError: a task was named.
    """

    features = FEATURES
    cameras = CAMERAS
    fps = 10
    max_steps = 300

    def __init__(self, task: str = "", picture_size: int = 256) -> None:
        if task:
            raise UsageError(f"Push-T has one task only: write pusht instead of pusht/{task}")
        self.task = task
        self._env = PushTEnv(
            obs_type="state", visualization_width=picture_size, visualization_height=picture_size
        )

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        """Begin the episode that belongs to `seed`."""
        self._env._last_action = None
        state, _ = self._env.reset(seed=seed)
        return _observation(state)

    def set_state(self, agent: np.ndarray, block: np.ndarray) -> dict[str, np.ndarray]:
        """Begin at a recorded state, at rest, so that its actions can be replayed.

        The reset of gym-pusht to a state does not lead to that state: it places the block before it
        turns it, and turning is about the centre of gravity.

        Args:
            agent: `observation.state` `(2,)`.
            block: `observation.environment_state` `(3,)`.
        """
        self._env._last_action = None
        self._env._setup()
        self._env.agent.position = [float(v) for v in agent]
        self._env.block.angle = float(block[2])
        self._env.block.position = [float(v) for v in block[:2]]
        for body in (self._env.agent, self._env.block):  # pictures show where shapes were indexed last
            self._env.space.reindex_shapes_for_body(body)
        return _observation(self._env.get_obs())

    def step(self, action: np.ndarray) -> SimulatorStep:
        """Move towards a target `(2,)` in px, cut to the field."""
        target = np.clip(np.asarray(action, np.float64), 0.0, 512.0)
        state, reward, _, _, info = self._env.step(target)
        success = bool(info["is_success"])
        return SimulatorStep(_observation(state), float(reward), success, float(reward), success)

    def render(self) -> np.ndarray:
        """Return a picture of the present state, uint8 `(S, S, 3)`; the last target is a cross."""
        return self._env.render()

    def picture(self, camera: str) -> np.ndarray:
        """Return what `observation.image` sees of the present state, uint8 `(96, 96, 3)`."""
        assert camera in CAMERAS
        return self._env._render(visualize=False)

    def close(self) -> None:
        """Let go of the simulation."""
        self._env.close()


def _observation(state: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "observation.state": state[:2].astype(np.float32),
        "observation.environment_state": state[2:].astype(np.float32),
    }
