"""Finding a way to draw MuJoCo scenes on a machine without a screen."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

BACKENDS = {"egl": "libegl1 libgl1", "osmesa": "libosmesa6"}
"""Ways to draw without a screen, the better first, with the Debian packages that bring them."""

_OFF = ("disable", "disabled", "off", "false", "0")

_PROBE = """
import mujoco
context = mujoco.GLContext(64, 64)
context.make_current()
scene = mujoco.MjrContext(mujoco.MjModel.from_xml_string("<mujoco/>"), mujoco.mjtFontScale.mjFONTSCALE_100)
scene.free()
context.free()
"""


@contextlib.contextmanager
def importing_mujoco() -> Iterator[None]:
    """Let MuJoCo be imported without touching OpenGL.

    MuJoCo decides at its first import how it will draw, and the import itself fails where that way is
    missing; a failed try also spoils the next one in the same process (PyOpenGL binds once). So physics
    are imported with drawing off, and `choose_backend` decides by itself, when a picture is first asked for.
    """
    asked = os.environ.get("MUJOCO_GL")
    os.environ["MUJOCO_GL"] = "disable"
    try:
        yield
    finally:
        if asked is None:
            del os.environ["MUJOCO_GL"]
        else:
            os.environ["MUJOCO_GL"] = asked


@functools.cache
def choose_backend() -> str:
    """Return `egl` or `osmesa`, whichever draws here; `MUJOCO_GL` restricts the choice to one.

    Each is tried in a process of its own, so that a driver that crashes takes nothing with it.

    Raises:
        RuntimeError: neither does; the sentence names the Debian packages that are missing.
    """
    asked = os.environ.get("MUJOCO_GL", "").lower().strip()
    if asked in _OFF:
        raise RuntimeError(f"drawing is switched off by MUJOCO_GL={asked}")
    candidates = [asked] if asked in BACKENDS else list(BACKENDS)
    for backend in candidates:
        if _draws(backend):
            return backend
    missing = ", or ".join(BACKENDS[backend] for backend in candidates)
    raise RuntimeError(f"there is no OpenGL without a screen here (on Debian: apt-get install {missing})")


@functools.cache
def shared_context() -> Any:
    """Return the one OpenGL context of this process, made at the first call and freed at exit.

    Raises:
        RuntimeError: there is no way to draw here.
    """
    backend = choose_backend()
    # PyOpenGL reads its platform once; a value that another library set would make MuJoCo refuse its own.
    os.environ["PYOPENGL_PLATFORM"] = backend
    try:
        if backend == "egl":
            from mujoco.egl import GLContext
        else:
            from mujoco.osmesa import GLContext
        context = GLContext(_LARGEST, _LARGEST)
    except Exception as error:  # drivers and PyOpenGL raise all sorts; a film is never worth a run
        raise RuntimeError(f"OpenGL ({backend}) worked in a trial and fails now: {error}") from error
    atexit.register(context.free)
    return context


_LARGEST = 640  # px, the buffer that OSMesa draws into; EGL ignores it


def _draws(backend: str) -> bool:
    environment = {**os.environ, "MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend}
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE], env=environment, capture_output=True, timeout=120, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return probe.returncode == 0
