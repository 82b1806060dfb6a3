"""Writes the page of components: `python -m trainer.engine.component_reference > docs/components.md`."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import typing
from collections.abc import Iterator
from typing import Any

from trainer.config.parameters import FRAMEWORK_ARGUMENTS, receivers
from trainer.config.reference import type_name
from trainer.engine.check import import_builtins
from trainer.registry import (
    CALLBACK_REGISTRY,
    DATASET_BUILDER_REGISTRY,
    EXPERT_REGISTRY,
    LOGGER_REGISTRY,
    LOSS_BUILDER_REGISTRY,
    METRIC_REGISTRY,
    OPTIMIZER_BUILDER_REGISTRY,
    TRAINER_REGISTRY,
    Registry,
)

SHIPPED = "experiment_training.components"
"""The package of the shipped plugins; a name, because the framework knows no experiment."""
_REST = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)

HEAD = """# Every component

Made by `python -m trainer.engine.component_reference > docs/components.md` from the registries, the
constructors and their docstrings; do not edit it.

`type` is the word in the YAML, and its parameters stand under `params`. A component whose *plugin* is named
needs that line under `plugins`; the others are always there. Parameters without a default are required.
What a component of your own must offer stands in [parts of your own](extending.md). Networks are
[blocks](blocks.md), simulators are chosen by `train.evaluation.env`.
"""
_SECTIONS: tuple[tuple[str, str, Registry[Any], bool], ...] = (
    ("Datasets", "data.datamodule", DATASET_BUILDER_REGISTRY, True),
    ("Trainers and policies", "train.trainer", TRAINER_REGISTRY, True),
    ("Losses", "train.loss", LOSS_BUILDER_REGISTRY, True),
    ("Optimizers", "train.optimizer or model.component_optims.<component>", OPTIMIZER_BUILDER_REGISTRY, True),
    ("Callbacks", "an entry of train.callbacks", CALLBACK_REGISTRY, False),
    ("Metrics", "an entry of train.metrics", METRIC_REGISTRY, False),
    ("Loggers", "an entry of train.loggers", LOGGER_REGISTRY, False),
    ("Experts", "online.expert", EXPERT_REGISTRY, False),
)


def page() -> Iterator[str]:
    """Yield the lines of the page."""
    import_builtins()
    plugins = shipped_plugins()
    yield HEAD
    for title, where, registry, reserved in _SECTIONS:
        yield f"## {title}\n\n`{where}`\n"
        keys = registry.keys()
        for key in keys:
            cls = registry.get(key)
            home = plugins.get((registry.name, key))
            if home is None and not cls.__module__.startswith("trainer."):
                continue  # of a plugin that somebody else has imported
            yield from _component(key, cls, home, FRAMEWORK_ARGUMENTS if reserved else frozenset())


def shipped_plugins() -> dict[tuple[str, str], str]:
    """Import the shipped plugins; return (registry, key) → the module that registers it."""
    found: dict[tuple[str, str], str] = {}
    package = importlib.import_module(SHIPPED)
    for module in pkgutil.walk_packages(package.__path__, f"{SHIPPED}."):
        importlib.import_module(module.name)
        text = inspect.getsource(importlib.import_module(module.name))
        for _, _, registry, _ in _SECTIONS:
            keys = registry.keys()
            for key in keys:
                named = rf'(?:register|register_policy)\(\s*"{re.escape(key)}"'
                cls = registry.get(key)
                if re.search(named, text) or (cls.__module__ == module.name and not _is_policy(cls)):
                    found.setdefault((registry.name, key), module.name)
    return found


def _is_policy(cls: type[Any]) -> bool:
    return getattr(cls, "policy_class", None) is not None


def _component(key: str, cls: type[Any], plugin: str | None, reserved: frozenset[str]) -> Iterator[str]:
    about = getattr(cls, "policy_class", None) or cls
    doc = inspect.cleandoc(about.__doc__ or "")
    yield f"### `{key}`\n"
    yield " ".join(doc.split("\n\n")[0].split()) + "\n"
    if plugin is not None:
        yield f"Plugin: `{plugin}`\n"
    rows = list(_parameters(cls, reserved))
    if rows:
        yield "| parameter | type | default | meaning |\n|---|---|---|---|"
        yield from rows
        yield ""
    else:
        yield "No parameters.\n"


def _parameters(cls: type[Any], reserved: frozenset[str]) -> Iterator[str]:
    """Yield a row of the table for every parameter that the YAML may give."""
    told: set[str] = set()
    for target in receivers(cls):
        meanings = described_arguments(target)
        hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
        for name, parameter in inspect.signature(target).parameters.items():
            if name in reserved or name in told or parameter.kind in _REST:
                continue
            told.add(name)
            default = "required" if parameter.default is parameter.empty else f"`{_yaml(parameter.default)}`"
            yield f"| `{name}` | {type_name(hints.get(name))} | {default} | {meanings.get(name, '')} |"


def described_arguments(target: Any) -> dict[str, str]:
    """Return what a docstring says of each argument, under `Args:` or `Attributes:`, or that of a base."""
    bases = inspect.getmro(target) if inspect.isclass(target) else (target,)
    found: dict[str, str] = {}
    for base in bases:
        for name, text in _arguments_in(inspect.cleandoc(base.__doc__ or "")).items():
            found.setdefault(name, text)
    return found


def _arguments_in(doc: str) -> dict[str, str]:
    found: dict[str, str] = {}
    section = re.search(r"^(?:Args|Attributes):\n((?:    .*\n?|\n)+)", doc, re.M)
    name = ""
    for line in section[1].splitlines() if section else ():
        begins = re.match(r"    (\w+): (.*)", line)
        if begins:
            name = begins[1]
            found[name] = begins[2]
        elif name and line.strip():
            found[name] += f" {line.strip()}"
    return found


def _yaml(value: Any) -> str:
    words = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_yaml, value))}]"
    return str(value)


if __name__ == "__main__":
    print("\n".join(page()).rstrip())
