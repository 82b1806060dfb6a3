"""What robot a simulator is, and whether it is that of a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.templates import Simulator
from trainer.templates.simulator import RecordsThroughCameras
from trainer.utils.errors import UsageError


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
