"""Importing plugins: modules that fill the registries as a side effect."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import traceback
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

from model_constructor import closest

from trainer.utils import import_utils
from trainer.utils.import_utils import import_module

ENTRY_POINTS = "trainer.plugins"
SHIPPED = ("trainer", "experiment_training")


class PluginError(ImportError):
    """A plugin is not there, or fails while it is imported.

    Args:
        message: one sentence without its full stop.
        hint: what to do about it.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.message = message
        self.hint = hint


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
            reason, hint = _reason(name, error, project)
            raise PluginError(f"plugin '{name}' cannot be imported: {reason}", hint) from error


def _reason(plugin: str, error: Exception, project: Path | None) -> tuple[str, str | None]:
    """Return why a plugin cannot be imported, and what to do about it."""
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing is not None and f"{plugin}.".startswith(f"{missing}."):
        return _not_there(plugin, missing, project)
    kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
    return f"{kind}{error}{_where(error)}", None


def _not_there(plugin: str, missing: str, project: Path | None) -> tuple[str, str | None]:
    """Return where a module was looked for that is, or leads to, a plugin; and the nearest one there."""
    parent, _, last = missing.rpartition(".")
    if parent:
        places = [str(place) for place in getattr(sys.modules.get(parent), "__path__", ())]
        looked = f"looked in {' and '.join(places)}" if places else f"{parent} is no package"
        names = []
    else:
        own = [] if project is None else [str(project)]
        places = [*own, *sys.path]
        looked = f"looked in {''.join(f'the project {folder} and ' for folder in own)}Python's path"
        names = list(SHIPPED)
    # Where more names follow, what is meant is a package.
    there = (module.name for module in pkgutil.iter_modules(places) if module.ispkg or missing == plugin)
    near = closest(last, [*names, *there])
    right = plugin.split(".")
    right[missing.count(".")] = near[0] if near else ""
    if near:
        return f"there is no module {missing}, {looked}", f"did you mean '{'.'.join(right)}'?"
    elsewhere = None if parent or project is not None else "put the folder that holds it on PYTHONPATH"
    return f"there is no module {missing}, {looked}", elsewhere


def _where(error: Exception) -> str:
    """Return the line that raised an error while a plugin was imported, as ` (file:line)`."""
    if isinstance(error, SyntaxError):  # which says it itself
        return ""
    machinery = (__file__, import_utils.__file__, importlib.__file__)
    frames = [(f.filename, f.lineno) for f in traceback.extract_tb(error.__traceback__)]
    own = [f" ({file}:{line})" for file, line in frames if file not in machinery and file[:1] != "<"]
    return own[-1] if own else ""


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
