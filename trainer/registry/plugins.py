"""Importing plugins: modules that fill the registries as a side effect."""

from __future__ import annotations

import importlib
from collections.abc import Iterable


def load_plugins(modules: Iterable[str]) -> None:
    """Import every named module; Python's own module table makes the second import free.

    Raises:
        ImportError: a module is not there, or fails while it is imported.
    """
    for name in modules:
        importlib.import_module(name)
