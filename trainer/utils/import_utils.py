"""Import helpers: modules by name, names that are imported on first use, and calls by signature."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T")

TRAINING_LIBRARIES = frozenset({"PIL", "av", "jinja2", "markupsafe", "pyarrow", "tqdm", "wandb"})
"""What the extra `train` brings: all that a robot which loads a policy does without."""


def import_module(name: str, folder: Path | None = None) -> ModuleType:
    """Import a module by its dotted name; Python's own module table makes the second import free.

    Args:
        name: dotted name.
        folder: where modules are found too, after all other places.

    Raises:
        ImportError: it is not there; whatever it raises itself comes through.
    """
    if folder is not None and str(folder) not in sys.path:
        sys.path.append(str(folder))
    return importlib.import_module(name)


def instantiate(target: Callable[..., T], params: Mapping[str, Any], /, **offered: Any) -> T:
    """Call `target` with all of `params` and with those of `offered` that its signature names.

    Raises:
        TypeError: `target` does not take a parameter, or lacks one.
    """
    named = inspect.signature(target).parameters
    return target(**{name: value for name, value in offered.items() if name in named}, **params)


def lazy_attributes(module: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a `__getattr__` for a module that imports a name when it is first asked for.

    Args:
        module: the module's own name.
        homes: name → module that defines it.
    """

    def __getattr__(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module '{module}' has no attribute '{name}'")
        value = getattr(importlib.import_module(homes[name]), name)
        setattr(sys.modules[module], name, value)
        return value

    return __getattr__


@contextlib.contextmanager
def needs_training_libraries(what: str) -> Iterator[None]:
    """Say what to install where the block imports a library that only training needs and that is not there.

    Args:
        what: what cannot be used without it, as the subject of a sentence.

    Raises:
        ModuleNotFoundError: with one sentence in place of Python's.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in TRAINING_LIBRARIES:
            raise
        raise ModuleNotFoundError(
            f"{what} needs {missing}, which is not installed; pip install 'trainer-il[train]'",
            name=error.name,
        ) from error
