"""Reads and checks specs (`_type_`, `_target_`), without building anything."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from model_constructor.config.nodes import UNKNOWN
from model_constructor.config.settings import Settings
from model_constructor.config.source_map import ConfigPath, SourceLocation, SourceMap
from model_constructor.errors import ConfigError
from model_constructor.instantiate.signature import validate_kwargs
from model_constructor.registry.registry import Registry, RegistryEntry
from model_constructor.util.problems import Problems
from model_constructor.util.suggest import closest
from model_constructor.util.trust import is_trusted

RESERVED = ("_type_", "_target_", "_args_", "_kwargs_", "_name_")


@dataclass(frozen=True)
class Scope:
    """What reading specs needs to know.

    Attributes:
        registry: where `_type_` is looked up.
        settings: the configuration's settings.
        source_map: positions for errors.
    """

    registry: Registry
    settings: Settings
    source_map: SourceMap

    def at(self, path: ConfigPath) -> SourceLocation | None:
        """Where a value stands, or what encloses it."""
        return self.source_map.nearest(path)

    def at_key(self, path: ConfigPath) -> SourceLocation | None:
        """Where a mapping key stands."""
        return self.source_map.get_key(path)


@dataclass(frozen=True)
class Spec:
    """A spec taken apart; the arguments are not built yet.

    Attributes:
        name: the type or target as written.
        target: what is called; `None` when it could not be found, with the mistake noted.
        args: positional arguments and where each stands.
        kwargs: keyword arguments, likewise.
    """

    name: str
    target: Callable[..., Any] | None
    args: list[tuple[Any, ConfigPath]]
    kwargs: dict[str, tuple[Any, ConfigPath]]


def is_spec(value: Any) -> bool:
    """Whether a value describes something to build."""
    return isinstance(value, dict) and ("_type_" in value or "_target_" in value)


def check_value(value: Any, path: ConfigPath, scope: Scope, problems: Problems) -> None:
    """Note every mistake in the specs that `value` is or holds, at any depth."""
    if is_spec(value):
        spec = read_spec(value, path, scope, problems)
        for child, child_path in [*spec.args, *spec.kwargs.values()]:
            check_value(child, child_path, scope, problems)
    elif isinstance(value, dict):
        for key, child in value.items():
            check_value(child, (*path, key), scope, problems)
    elif isinstance(value, list):
        for index, child in enumerate(value):
            check_value(child, (*path, index), scope, problems)


def read_spec(value: dict[str, Any], path: ConfigPath, scope: Scope, problems: Problems) -> Spec:
    """Take one spec apart and check all of it but what its arguments hold."""
    args = _positional(value, path, scope, problems)
    kwargs, complete = _keywords(value, path, scope, problems)
    if "_type_" in value and "_target_" in value:
        problems.add("a spec has '_type_' or '_target_', not both", (*path, "_target_"), scope.at(path))
        return Spec("", None, args, kwargs)
    key = "_type_" if "_type_" in value else "_target_"
    name, at = value[key], (*path, key)
    if not isinstance(name, str) or not name:
        if name is not UNKNOWN:
            problems.add(f"'{key}' must be a non-empty string", at, scope.at(at))
        return Spec("", None, args, kwargs)
    try:
        if key == "_target_":
            return Spec(name, _import_target(name, at, scope), args, kwargs)
        entry = scope.registry.get_module(name, config_path=at, location=scope.at(at))
    except ConfigError as error:
        problems.take(error)
        return Spec(name, None, args, kwargs)
    if complete:
        _check_arguments(entry, args, kwargs, path, scope, problems)
    return Spec(name, entry.target, args, kwargs)


def _positional(
    value: dict[str, Any], path: ConfigPath, scope: Scope, problems: Problems
) -> list[tuple[Any, ConfigPath]]:
    args, at = value.get("_args_"), (*path, "_args_")
    if args is None:
        return []
    if not isinstance(args, list):
        if args is not UNKNOWN:
            problems.add("'_args_' must be a list", at, scope.at(at))
        return []
    return [(arg, (*at, index)) for index, arg in enumerate(args)]


def _keywords(
    value: dict[str, Any], path: ConfigPath, scope: Scope, problems: Problems
) -> tuple[dict[str, tuple[Any, ConfigPath]], bool]:
    """Keyword arguments, and whether these are surely all."""
    kwargs: dict[str, tuple[Any, ConfigPath]] = {}
    complete = value.get("_args_") is not UNKNOWN
    for key, argument in value.items():
        at = (*path, key)
        if key in RESERVED:
            continue
        if key.startswith("_") and scope.settings.strict:
            problems.add(
                f"Unknown reserved keys: ['{key}']",
                at,
                scope.at_key(at),
                closest(key, RESERVED) or closest(key.strip("_"), (name.strip("_") for name in RESERVED)),
            )
        elif not key.startswith("__"):
            kwargs[key] = (argument, at)
    extra, extra_at = value.get("_kwargs_"), (*path, "_kwargs_")
    if isinstance(extra, dict):
        for key, argument in extra.items():
            at = (*extra_at, key)
            if key in kwargs:
                problems.add(f"Duplicate kwargs keys: ['{key}']", at, scope.at_key(at))
            kwargs[key] = (argument, at)
    elif extra is UNKNOWN:
        complete = False
    elif extra is not None:
        problems.add("'_kwargs_' must be a mapping", extra_at, scope.at(extra_at))
        complete = False
    return kwargs, complete


def _check_arguments(
    entry: RegistryEntry,
    args: list[tuple[Any, ConfigPath]],
    kwargs: dict[str, tuple[Any, ConfigPath]],
    path: ConfigPath,
    scope: Scope,
    problems: Problems,
) -> None:
    try:
        found = validate_kwargs(entry, len(args), kwargs)
    except ConfigError as error:
        problems.add(error.message, path, scope.at(path))
        return
    for mismatch in found:
        at = path if mismatch.keyword is None else kwargs[mismatch.keyword][1]
        location = scope.at(at) if mismatch.keyword is None else scope.at_key(at)
        problems.add(f"{entry.name}: {mismatch.message}", at, location, mismatch.suggestions)


def _import_target(name: str, path: ConfigPath, scope: Scope) -> Callable[..., Any]:
    def wrong(message: str, suggestions: tuple[str, ...] = ()) -> ConfigError:
        return ConfigError(message, config_path=path, location=scope.at(path), suggestions=suggestions)

    if not scope.settings.allow_target:
        raise wrong("_target_ is disabled by settings.allow_target", ("settings.allow_target: true",))
    module_name, _, attribute = name.rpartition(".")
    if not module_name or not all(part.isidentifier() for part in name.split(".")):
        raise wrong(f"Invalid _target_ import path '{name}': it has the form package.module.attribute")
    if not scope.settings.allows_module(module_name):
        raise wrong(
            f"_target_ import '{name}' is not allowed by settings.allowed_import_prefixes",
            scope.settings.allowed_import_prefixes,
        )
    if not is_trusted(module_name, own=False):
        raise wrong(f"_target_ import '{name}' is not trusted by whoever builds this")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise wrong(f"Failed to import module '{module_name}': {error}") from error
    target = getattr(module, attribute, None)
    if target is None:
        near = tuple(closest(attribute, vars(module), 5))
        raise wrong(f"Module '{module_name}' has no attribute '{attribute}'", near)
    if not callable(target):
        raise wrong(f"'{name}' cannot be called")
    return target
