"""The versions on which recorded, trained and measured numbers depend."""

from __future__ import annotations

import platform
from importlib import metadata

from model_constructor import __version__

_LIBRARIES = (
    "torch",
    "numpy",
    "pyarrow",
    "metaworld",
    "mujoco",
    "gym-pusht",
    "pymunk",
    "gymnasium",
)


def library_versions() -> dict[str, str]:
    """Return the version of Python and of each library that is installed, by name."""
    versions = {"python": platform.python_version(), "trainer-il": __version__}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
