"""Names and references as they stand in a model YAML."""

from __future__ import annotations

import re
from typing import Any, TypeGuard

from model_constructor.config.nodes import UNKNOWN
from model_constructor.config.source_map import ConfigPath
from model_constructor.graph.ir import Ref
from model_constructor.instantiate.spec import Scope
from model_constructor.util.problems import Problems

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def is_name(value: Any) -> TypeGuard[str]:
    """Whether inputs, modules, nodes and values may be called so."""
    return isinstance(value, str) and _NAME.match(value) is not None


def name_list(value: Any, path: ConfigPath, what: str, scope: Scope, problems: Problems) -> list[str]:
    """The valid names of a non-empty list; what is wrong with it is noted."""
    if not isinstance(value, list) or not value:
        if value is not UNKNOWN:
            problems.add(f"'{what}' must be a non-empty list of names", path, scope.at(path))
        return []
    names = []
    for index, name in enumerate(value):
        at = (*path, index)
        if is_name(name):
            names.append(name)
        elif name is not UNKNOWN:
            problems.add(f"{name!r} in '{what}' is no valid name", at, scope.at(at))
    return names


def with_refs(value: Any, path: ConfigPath, found: dict[str, ConfigPath], wrong: list[ConfigPath]) -> Any:
    """An argument with `$name` as `Ref` and `$$text` as `$text`, at any depth.

    References are added to `found`, places where `$` begins no valid name to `wrong`.
    """
    if isinstance(value, dict):
        return {key: with_refs(child, (*path, key), found, wrong) for key, child in value.items()}
    if isinstance(value, list):
        return [with_refs(child, (*path, index), found, wrong) for index, child in enumerate(value)]
    if not isinstance(value, str) or not value.startswith("$") or value.startswith("${"):
        return value
    if value.startswith("$$"):
        return value[1:]
    name = value[1:]
    if not is_name(name):
        wrong.append(path)
        return value
    found.setdefault(name, path)
    return Ref(name)
