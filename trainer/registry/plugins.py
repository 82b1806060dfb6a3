"""Importing plugins: modules that fill the registries as a side effect."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from pathlib import Path


class PluginError(ImportError):
    """A plugin is not there, or fails while it is imported."""


def load_plugins(modules: Iterable[str], project: Path | None = None) -> None:
    """Import every named module; Python's own module table makes the second import free.

    Args:
        modules: dotted names.
        project: folder in which modules of the user's own are found.

    Raises:
        PluginError: a module is not there, or fails while it is imported.
    """
    if project is not None and str(project) not in sys.path:
        sys.path.append(str(project))
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a module of the user's raises is his to see
            kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
            raise PluginError(f"plugin '{name}' cannot be imported: {kind}{error}") from error
