"""What a simulator plugin provides."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np


class SimulatorStep(NamedTuple):
    """What one control step led to."""

    observation: dict[str, np.ndarray]
    reward: float
    success: bool  # at this step
    score: float  # in [0, 1]; the score of an episode is its maximum
    done: bool  # the episode is over by the simulator's own rules, before `max_steps`


@runtime_checkable
class Simulator(Protocol):
    """One simulated robot with one task; observations and actions are those of the datasets.

    The constructor takes the part of the environment name after the slash: `metaworld/pick-place-v3`
    calls the class registered as `metaworld` with `"pick-place-v3"`; `pusht` gets `""`. It raises
    `ValueError` for a task that it does not have. Attributes: `task` (text), `fps` (int), `max_steps`
    (int), `features` (LeRobot feature descriptions of every observation and of `action`).
    """

    task: str
    fps: int
    max_steps: int
    features: dict[str, dict[str, Any]]

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        """Begin an episode whose start depends on `seed` alone."""
        ...

    def step(self, action: np.ndarray) -> SimulatorStep:
        """Apply one action `(A,)`."""
        ...

    def render(self) -> np.ndarray:
        """Return a picture of the present state, uint8 `(H, W, 3)`.

        Raises:
            RuntimeError: there is no way to draw on this machine; the text says what is missing.
        """
        ...

    def close(self) -> None:
        """Let go of what the simulator holds."""
        ...


@runtime_checkable
class SeesThroughCameras(Protocol):
    """A simulator that also has cameras, for policies that look through them.

    Drawing costs more than simulating, so observations hold no pictures: whoever needs one asks for it.
    Attribute: `cameras`, LeRobot feature descriptions by name, of shape `(H, W, 3)`.
    """

    cameras: dict[str, dict[str, Any]]

    def picture(self, camera: str) -> np.ndarray:
        """Return what a camera sees of the present state, uint8 `(H, W, 3)`, as its dataset has it.

        Raises:
            RuntimeError: there is no way to draw on this machine; the text says what is missing.
        """
        ...


@runtime_checkable
class RecordsThroughCameras(SeesThroughCameras, Protocol):
    """A simulator with cameras of any size, through which demonstrations can be recorded.

    Attribute: `sensors`, LeRobot feature descriptions of what every observation holds beside `features`, as
    robots with cameras measure it; recordings through cameras have it, those without do not.
    """

    sensors: dict[str, dict[str, Any]]

    def set_camera_size(self, camera: str, size: int) -> None:
        """Let the pictures of a camera be `(size, size, 3)` from now on, in `cameras` too."""
        ...
