"""Which plugin that comes with the project registers a name, found without importing any of them."""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path

PACKAGES = ("experiment_training", "examples.extensions")


@functools.cache
def shipped_plugins() -> Mapping[str, Mapping[str, str]]:
    """Return name of a registry → key → module that registers it, read from the source files."""
    found: dict[str, dict[str, str]] = {}
    for module, path in shipped_modules():
        text = path.read_text(encoding="utf-8")
        if "_REGISTRY.register(" in text or "register_policy(" in text:
            for registry, key in _registered(ast.parse(text)):
                found.setdefault(registry, {})[key] = module
    return found


def shipped_modules() -> Iterator[tuple[str, Path]]:
    """Yield the modules of the packages that plugins come in, with their files."""
    for package in PACKAGES:
        try:
            spec = importlib.util.find_spec(package)
        except ModuleNotFoundError:  # the package around it is not installed
            continue
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            for path in sorted(Path(folder).rglob("*.py")):
                parts = path.relative_to(folder).with_suffix("").parts
                yield ".".join((package, *parts)).removesuffix(".__init__"), path


def _registered(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield name of the registry and key of everything that a module registers."""
    constants = {
        target.id: statement.value
        for statement in tree.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    for call in ast.walk(tree):
        if not (isinstance(call, ast.Call) and call.args):
            continue
        registry, key = _registry_of(call.func), call.args[0]
        key = constants.get(key.id, key) if isinstance(key, ast.Name) else key
        if registry is not None and isinstance(key, ast.Constant):
            yield registry, str(key.value)


def _registry_of(function: ast.expr) -> str | None:
    """Return the registry into which a call of this function registers something."""
    if isinstance(function, ast.Name) and function.id == "register_policy":
        return "trainer"
    if not (isinstance(function, ast.Attribute) and function.attr == "register"):
        return None
    named = function.value.id if isinstance(function.value, ast.Name) else ""
    return named.removesuffix("_REGISTRY").lower() if named.endswith("_REGISTRY") else None
