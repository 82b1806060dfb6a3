"""Simulators by name: `metaworld/<task>`, `pusht`, and whatever plugins register."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import cast

from model_constructor import did_you_mean

from trainer.registry import SIMULATOR_REGISTRY
from trainer.templates import Simulator
from trainer.utils.errors import UsageError

__all__ = ["BUILT_IN", "make_simulator"]

BUILT_IN = ("metaworld", "pusht")  # each a module here and an extra of the package


def make_simulator(name: str) -> Simulator:
    """Return a new simulator.

    Args:
        name: key of the simulator registry, then a slash and the task where the simulator has several:
            `metaworld/pick-place-v3`, `pusht`.

    Raises:
        UsageError: there is no such simulator or task, or it is not installed; one sentence says what to do.
    """
    kind, _, task = name.partition("/")
    if kind in BUILT_IN and not SIMULATOR_REGISTRY.has(kind):
        _import_built_in(kind)
    if not SIMULATOR_REGISTRY.has(kind):
        known = sorted({*BUILT_IN, *SIMULATOR_REGISTRY.keys()})
        raise UsageError(f"there is no simulator '{kind}'; {did_you_mean(kind, known)}")
    build = cast(Callable[[str], Simulator], SIMULATOR_REGISTRY.get(kind))
    try:
        return build(task)
    except UsageError:
        raise
    except ValueError as error:  # by which a plugin says that it has no such task
        raise UsageError(str(error)) from error


def _import_built_in(kind: str) -> None:
    try:
        importlib.import_module(f"trainer.evaluation.simulators.{kind}")
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the simulator '{kind}' is not installed ({error.name} is missing): "
            f"run pip install 'trainer-il[{kind}]'"
        ) from error
    except ImportError as error:
        raise UsageError(
            f"the simulator '{kind}' cannot be loaded: {error}; "
            "on Debian, apt-get install libgl1 libglib2.0-0 brings what is usually missing"
        ) from error
