"""Meta-World: fifty manipulation tasks of a Sawyer arm in MuJoCo (Yu et al., 2019), with scripted experts."""

from __future__ import annotations

import copy
import functools
import warnings
from typing import Any

import numpy as np
from model_constructor import did_you_mean

from trainer.evaluation.simulators.opengl import importing_mujoco
from trainer.evaluation.simulators.scene import SceneRenderer, View
from trainer.registry import SIMULATOR_REGISTRY
from trainer.templates import SimulatorStep
from trainer.utils.errors import UsageError

with importing_mujoco():
    import mujoco
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    from metaworld.policies import ENV_POLICY_MAP

_VIEW = View(lookat=(0.0, 0.65, 0.12), distance=1.35, azimuth=150.0, elevation=-30.0)  # of films

VIEWS = {
    "observation.images.cam_head": View((0.0, 0.70, 0.08), 0.95, -90.0, -50.0),
    "observation.images.cam_left": View((0.0, 0.70, 0.10), 0.90, -30.0, -40.0),
    "observation.images.cam_right": View((0.0, 0.70, 0.10), 0.90, -150.0, -40.0),
}
"""The cameras: one looks down at the robot from the front, two look at the table from the robot's left and
right front. The goal of tasks that have one without a body is a coloured ball, as Meta-World draws it."""

CAMERA_SIZE = 96
"""Edge of their pictures in px, where nothing else is asked for."""

_OBJECT = ["x", "y", "z", "qx", "qy", "qz", "qw"]
_FRAME = ["hand_x", "hand_y", "hand_z", "gripper", *(f"object_{i}_{a}" for i in (1, 2) for a in _OBJECT)]
_STATE = [*_FRAME, *(f"previous_{name}" for name in _FRAME), "goal_x", "goal_y", "goal_z"]

FEATURES: dict[str, dict[str, Any]] = {
    "observation.state": {"dtype": "float32", "shape": (39,), "names": _STATE},
    "action": {"dtype": "float32", "shape": (4,), "names": ["hand_dx", "hand_dy", "hand_dz", "gripper"]},
}
"""The goal is part of the state, as in Meta-World's multi-task benchmarks; actions lie in [-1, 1]."""

SENSORS: dict[str, dict[str, Any]] = {
    "observation.current": {"dtype": "float32", "shape": (2,), "names": ["finger_right", "finger_left"]},
}
"""What stands for motor currents: the forces of the two actuators that there are, in N, along the slide of
each finger, at the last physics step (of 2.5 ms). The arm has none: Meta-World drags the hand by a weld."""


# By task, size and whether it is oversampled; meshes take half a second to load.
_RENDERERS: dict[tuple[str, int, bool], SceneRenderer] = {}


@SIMULATOR_REGISTRY.register("metaworld")
class MetaworldSimulator:
    """One task of Meta-World v3, such as `pick-place-v3`, controlled at 80 Hz.

    A start is one uniform draw from the task's own space of objects and goals, as each of the fifty
    starts of a Meta-World benchmark is; every seed has its own. `reset` leaves nothing of the episode
    before: it is equal bit for bit to a new environment, at a twentieth of the cost.

    Success is Meta-World's; it counts at the step at which it is first reached, because the scripted
    experts drift off again afterwards. The score is 1.0 at success and 0.0 before. `max_steps` is
    Meta-World's own limit of 500: experts need 35 to 150 steps on most tasks and up to 350 on a few,
    and since an episode ends with success, only failures pay for the full length.

    Args:
        task: name of the task.
        picture_size: edge of the rendered picture in px.

    Raises:
        UsageError: there is no such task.
    """

    features = FEATURES
    sensors = SENSORS

    def __init__(self, task: str, picture_size: int = 256) -> None:
        if task not in ALL_V3_ENVIRONMENTS:
            hint = did_you_mean(task, sorted(ALL_V3_ENVIRONMENTS))
            raise UsageError(f"Meta-World has no task '{task}'; {hint}")
        self.task = task
        self.picture_size = picture_size
        self.cameras = {name: _camera_feature(CAMERA_SIZE) for name in VIEWS}
        self._env = _environment_class(task)()
        self._env._partially_observable = False
        del self._env.sawyer_observation_space  # a cached property that depends on the line above
        self._env._set_task_called = True
        self._env.seeded_rand_vec = True
        self.fps = round(1 / self._env.dt)
        self.max_steps = int(self._env.max_path_length)
        self._expert: Any = None

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        """Begin the episode that belongs to `seed`."""
        self._env.seed(seed)
        self._env._freeze_rand_vec = False
        self._env.reset_model()  # draws until objects and goal are far enough apart
        self._env._freeze_rand_vec = True
        state, _ = self._env.reset()
        for goal, position in self._env._target_site_config:  # as after every step; a reset leaves an old one
            self._env._set_pos_site(goal, position)
        self._expert = None
        return self._observation(state)

    def step(self, action: np.ndarray) -> SimulatorStep:
        """Apply an action `(4,)`: three hand displacements and the gripper's effort, cut to [-1, 1]."""
        state, reward, _, truncated, info = self._env.step(np.clip(action, -1.0, 1.0).astype(np.float32))
        success = bool(info["success"])
        observation = self._observation(state)
        return SimulatorStep(observation, float(reward), success, float(success), bool(truncated))

    def expert_action(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        """Return what the task's scripted expert does, float32 `(4,)` within [-1, 1]."""
        if self._expert is None:  # a few experts remember; an episode has its own
            expert: Any = ENV_POLICY_MAP[self.task]
            self._expert = expert()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they say at every other step that their action will be cut
            action = self._expert.get_action(observation["observation.state"].astype(np.float64))
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def render(self) -> np.ndarray:
        """Return a picture of the present state, uint8 `(S, S, 3)` with S the `picture_size`.

        Raises:
            RuntimeError: there is no way to draw on this machine; the text says what is missing.
        """
        return self._draw(_VIEW, self.picture_size, oversampled=False)

    def picture(self, camera: str) -> np.ndarray:
        """Return what a camera sees of the present state, uint8 `(S, S, 3)` with S the camera's size.

        Raises:
            RuntimeError: there is no way to draw on this machine; the text says what is missing.
        """
        return self._draw(VIEWS[camera], self.cameras[camera]["shape"][0], oversampled=True)

    def set_camera_size(self, camera: str, size: int) -> None:
        """Let the pictures of a camera be `(size, size, 3)` from now on."""
        self.cameras[camera] = _camera_feature(size)

    def _draw(self, view: View, size: int, oversampled: bool) -> np.ndarray:
        key = (self.task, size, oversampled)
        try:
            if key not in _RENDERERS:
                _RENDERERS[key] = SceneRenderer(copy.copy(self._env.model), size, oversampled)
            return _RENDERERS[key].draw(self._env.model, self._env.data, view)
        except mujoco.FatalError as error:
            raise RuntimeError(f"MuJoCo cannot draw here: {error}") from error

    def _observation(self, state: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "observation.state": state.astype(np.float32),
            "observation.current": self._env.data.actuator_force.astype(np.float32),
        }

    def close(self) -> None:
        """Let go of the simulation."""
        self._env.close()


def _camera_feature(size: int) -> dict[str, Any]:
    return {"dtype": "video", "shape": (size, size, 3), "names": ["height", "width", "channels"]}


@functools.cache
def _compiled_model(path: str) -> Any:
    return mujoco.MjModel.from_xml_path(path)


@functools.cache
def _environment_class(task: str) -> type[Any]:
    """Return the task's class, with its model read from XML once: a copy takes 15 ms instead of 200 ms."""

    def simulation(self: Any) -> tuple[Any, Any]:
        model = copy.copy(_compiled_model(self.fullpath))
        return model, mujoco.MjData(model)

    base = ALL_V3_ENVIRONMENTS[task]
    return type(base.__name__, (base,), {"_initialize_simulation": simulation})
