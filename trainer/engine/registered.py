"""Everything that is registered: names, parameters with their types, defaults and meanings, docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import trainer.registry
from trainer.config.parameters import FRAMEWORK_ARGUMENTS, Target, parameter_model, receivers
from trainer.config.reference import type_name
from trainer.engine.check import import_builtins
from trainer.evaluation.simulators import BUILT_IN
from trainer.registry import PluginError, Registry, load_plugins
from trainer.registry.plugins import ENTRY_POINTS
from trainer.registry.shipped import shipped_plugins

_SECTION = re.compile(r"^(Args|Attributes):\n((?: +.*\n?|\n)*)", re.MULTILINE)
_ENTRY = re.compile(r"    (\w+): ((?:.*)(?:\n {6,}.*)*)")


REQUIRED = inspect.Parameter.empty
"""Stands for the default of a parameter that has none."""


@dataclass(frozen=True)
class Parameter:
    """What a component takes: its name, its type in the words of YAML, its default, and what it is."""

    name: str
    type: str
    default: Any
    meaning: str


@dataclass(frozen=True)
class Registered:
    """One registered component.

    Attributes:
        kind: name of its registry, or `block` and `op` of the model language.
        key: its name in a YAML.
        module: where it is defined.
        doc: its docstring.
        parameters: what it takes.
        is_open: it takes any other parameters too.
        plugin: what `plugins` must name for it; None where it is always there.
    """

    kind: str
    key: str
    module: str
    doc: str
    parameters: Sequence[Parameter] = ()
    is_open: bool = False
    plugin: str | None = None

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return self.doc.partition("\n")[0]


def registries() -> dict[str, Registry[Any]]:
    """Return the registries by name."""
    everything = vars(trainer.registry).values()
    return {one.name: one for one in everything if isinstance(one, Registry)}


def load_plugins_of(
    kinds: Sequence[str], plugins: Sequence[str] = (), project: Path | None = None
) -> dict[str, str]:
    """Import plugins that come with the project, those that are installed, and plugins of one's own.

    Args:
        kinds: names of registries; what registers nothing there is not imported, as far as that is known.
        plugins: plugins of one's own.
        project: folder in which they are found.

    Returns:
        Module → why it cannot be imported, for shipped and installed ones.

    Raises:
        PluginError: one of one's own cannot be imported.
    """
    import_builtins()
    load_plugins(plugins, project)
    installed = [entry.module for entry in metadata.entry_points(group=ENTRY_POINTS)]
    shipped = {module for kind in kinds for module in shipped_plugins().get(kind, {}).values()}
    simulators = [f"trainer.evaluation.simulators.{name}" for name in BUILT_IN if "simulator" in kinds]
    missing = {}
    for module in (*sorted(shipped), *installed, *simulators):
        try:
            load_plugins([module])
        except PluginError as error:
            missing[module] = error.message
    return missing


def registered(kind: str) -> Iterator[Registered]:
    """Yield what is registered of one kind, by name; what is not imported is not there."""
    registry = registries().get(kind)
    if registry is None:
        yield from _of_the_models(kind)
        return
    for key in registry.keys():  # noqa: SIM118 - a registry is no mapping
        yield describe(registry, key)


def describe(registry: Registry[Any], key: str) -> Registered:
    """Return what is known of one registered class."""
    cls: Any = registry.get(key)
    doc = inspect.getdoc(getattr(cls, "policy_class", None) or cls) or ""
    targets = receivers(cls)
    module = getattr(cls, "__module__", "")
    in_framework = module.split(".")[0] == "trainer"
    parameters, is_open = parameters_of(targets, (cls, *targets), reserved_by(registry.name))
    plugin = shipped_plugins().get(registry.name, {}).get(key, module)
    return Registered(registry.name, key, module, doc, parameters, is_open, None if in_framework else plugin)


def reserved_by(kind: str) -> frozenset[str]:
    """Return the arguments that the framework passes itself to components of a kind."""
    return frozenset() if kind in ("callback", "logger", "metric") else FRAMEWORK_ARGUMENTS


def parameters_of(
    targets: Sequence[Target], documented: Sequence[Any], reserved: frozenset[str]
) -> tuple[list[Parameter], bool]:
    """Return the parameters of what receives them, and whether it takes any others too."""
    model, is_open = parameter_model(targets, reserved)
    meanings: dict[str, str] = {}
    for one in documented:
        for base in inspect.getmro(one) if inspect.isclass(one) else (one,):  # what a base has told already
            for name, text in meanings_in(inspect.getdoc(base) or "").items():
                meanings.setdefault(name, text)
    return [
        Parameter(
            name,
            type_name(one.annotation),
            REQUIRED if one.is_required() else one.get_default(call_default_factory=True),
            one.description or meanings.get(name, ""),
        )
        for name, one in model.model_fields.items()
    ], is_open


def meanings_in(doc: str) -> dict[str, str]:
    """Return what the `Args` or `Attributes` of a docstring say of each name."""
    section = _SECTION.search(doc + "\n")
    entries = _ENTRY.findall(section[2]) if section else ()
    return {name: " ".join(text.split()) for name, text in entries}


def _of_the_models(kind: str) -> Iterator[Registered]:
    from model_constructor import get_default_registry

    registry = get_default_registry()
    is_block = kind == "block"
    for key in registry.list_modules() if is_block else registry.list_ops():
        entry = registry.get_module(key) if is_block else registry.get_op(key)
        module = getattr(entry.target, "__module__", None) or ""
        doc = entry.doc or inspect.getdoc(entry.target) or ""
        yield Registered(kind, key, module, doc, _arguments(entry.target) if doc else [])


def _arguments(target: Any) -> list[Parameter]:
    """Return the arguments of a block, whose types are what its annotations say."""
    try:
        accepted: Mapping[str, inspect.Parameter] = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return []
    meanings = meanings_in(inspect.getdoc(target) or "")
    return [
        Parameter(
            name,
            "" if one.annotation is one.empty else inspect.formatannotation(one.annotation).strip("'"),
            one.default,
            meanings.get(name, ""),
        )
        for name, one in accepted.items()
        if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)
    ]


def kinds() -> list[str]:
    """Return every kind that can be listed."""
    return [*sorted(registries()), "block", "op"]
