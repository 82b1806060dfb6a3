"""Pictures of MuJoCo simulations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.evaluation.simulators.opengl import shared_context


@dataclass(frozen=True)
class View:
    """Where a scene is seen from: `lookat` (3) and `distance` in m, `azimuth` and `elevation` in degrees."""

    lookat: Sequence[float]
    distance: float
    azimuth: float
    elevation: float


class SceneRenderer:
    """Draws all simulations of one task from any view: meshes and textures lie on the graphics card once.

    Shadows and reflections are off: where the processor draws, they cost four fifths of the time.

    Args:
        model: a MuJoCo model of the task.
        size: edge of the square picture in px.
        oversampled: draw at twice the size and average 2 × 2 pixels, instead of multisampling, which takes
            twice as long where the processor draws.

    Raises:
        RuntimeError: there is no way to draw on this machine.
    """

    def __init__(self, model: Any, size: int, oversampled: bool = False) -> None:
        self._gl = shared_context()
        self._gl.make_current()
        import mujoco

        self._oversampled = oversampled
        edge = 2 * size if oversampled else size
        model.vis.global_.offwidth = model.vis.global_.offheight = edge
        model.vis.quality.shadowsize = 0
        if oversampled:
            model.vis.quality.offsamples = 0
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        self._scene = mujoco.MjvScene(model, 2000)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._scene.flags[flag] = 0
        self._options = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FREE
        self._rectangle = mujoco.MjrRect(0, 0, edge, edge)
        self._pixels = np.empty((edge, edge, 3), np.uint8)

    def draw(self, model: Any, data: Any, view: View) -> np.ndarray:
        """Return a picture of the state `data`, uint8 `(size, size, 3)`."""
        import mujoco

        self._gl.make_current()
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._camera.lookat[:] = view.lookat
        self._camera.distance = view.distance
        self._camera.azimuth = view.azimuth
        self._camera.elevation = view.elevation
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(model, data, self._options, None, self._camera, everything, self._scene)
        mujoco.mjr_render(self._rectangle, self._scene, self._context)
        mujoco.mjr_readPixels(self._pixels, None, self._rectangle, self._context)
        picture = self._pixels[::-1]  # OpenGL begins with the lowest row
        return _halved(picture) if self._oversampled else picture.copy()


def _halved(picture: np.ndarray) -> np.ndarray:
    """Return the mean of every 2 × 2 pixels, rounded."""
    wide = picture.astype(np.uint16)
    total = wide[0::2, 0::2] + wide[1::2, 0::2] + wide[0::2, 1::2] + wide[1::2, 1::2]
    return ((total + 2) // 4).astype(np.uint8)
