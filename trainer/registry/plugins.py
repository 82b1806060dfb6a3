"""Importing plugins: modules that fill the registries as a side effect."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

from trainer.utils.import_utils import import_module

ENTRY_POINTS = "trainer.plugins"
SHIPPED = ("trainer", "experiment_training")


class PluginError(ImportError):
    """A plugin is not there, or fails while it is imported."""


def load_plugins(modules: Iterable[str], project: Path | None = None) -> None:
    """Import every named module.

    Args:
        modules: dotted names, from a configuration of the user's own.
        project: folder in which modules of the user's own are found.

    Raises:
        PluginError: a module is not there, or fails while it is imported.
    """
    for name in modules:
        try:
            import_module(name, project)
        except Exception as error:  # whatever a module of the user's raises is his to see
            kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
            raise PluginError(f"plugin '{name}' cannot be imported: {kind}{error}") from error


def load_trusted_plugins(modules: Iterable[str], trust: Sequence[str] = ()) -> None:
    """Import modules that a checkpoint names, which may come from anywhere.

    A module is imported if this process has it already, it is shipped, an installed distribution names it
    under `[project.entry-points."trainer.plugins"]`, or the caller trusts it.

    Args:
        modules: dotted names, from the checkpoint.
        trust: packages or modules of the caller's own.

    Raises:
        PluginError: a module is none of these, is not there, or fails while it is imported.
    """
    names = list(modules)
    trusted = (*SHIPPED, *trust, *(entry.module for entry in metadata.entry_points(group=ENTRY_POINTS)))
    for name in names:
        known = isinstance(name, str) and name in sys.modules
        if not known and not (isinstance(name, str) and _is_within(name, trusted)):
            raise PluginError(
                f"plugin {name!r} is named by the checkpoint, is not installed as one (entry point "
                f"'{ENTRY_POINTS}') and is not trusted; if it is yours, say so: trust=['{_package(name)}']"
            )
    load_plugins(names)


def _is_within(name: str, packages: Iterable[str]) -> bool:
    return all(part.isidentifier() for part in name.split(".")) and any(
        name == package or name.startswith(f"{package}.") for package in packages
    )


def _package(name: object) -> str:
    return str(name).partition(".")[0]
