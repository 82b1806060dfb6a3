"""The `settings` section."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from model_constructor.config.nodes import UNKNOWN
from model_constructor.config.source_map import SourceMap
from model_constructor.util.problems import Problems
from model_constructor.util.suggest import closest


@dataclass(frozen=True)
class Settings:
    """How strictly a configuration is read and what it may import.

    Attributes:
        strict: refuse unknown keys with a leading underscore in specs; otherwise they are arguments.
        allow_imports: whether `imports` may list anything.
        allowed_import_prefixes: packages from which `imports` and `_target_` may take modules.
        allow_target: whether specs may use `_target_`.
        error_context_lines: how many lines of the file are shown around a mistake.
    """

    strict: bool = True
    allow_imports: bool = True
    allowed_import_prefixes: tuple[str, ...] = ("model_constructor.",)
    allow_target: bool = False
    error_context_lines: int = 2

    def allows_module(self, module: str) -> bool:
        """Whether `module` is one of the allowed packages or lies inside one."""
        roots = (prefix.rstrip(".") for prefix in self.allowed_import_prefixes)
        return any(not root or module == root or module.startswith(root + ".") for root in roots)


def parse_settings(
    data: Any, source_map: SourceMap | None = None, problems: Problems | None = None
) -> Settings:
    """Settings from the section's data; missing ones have their defaults.

    Wrong ones are noted in `problems` and take their defaults.

    Raises:
        ConfigError: when no `problems` are given to note mistakes in.
    """
    noted = Problems() if problems is None else problems
    located = source_map or SourceMap()
    settings = _parse(data, located, noted)
    if problems is None:
        noted.raise_all()
    return settings


def _parse(data: Any, source_map: SourceMap, problems: Problems) -> Settings:
    if data is None or data is UNKNOWN:
        return Settings()
    if not isinstance(data, dict):
        problems.add("settings must be a mapping", ("settings",), source_map.nearest(("settings",)))
        return Settings()
    known = {field.name: type(field.default) for field in fields(Settings)}
    given: dict[str, Any] = {}
    for key, value in data.items():
        path = ("settings", key)
        if key not in known:
            problems.add(f"Unknown setting '{key}'", path, source_map.get_key(path), closest(key, known, 5))
            continue
        if value is UNKNOWN:
            continue
        wanted = _mismatch(known[key], value)
        if wanted:
            problems.add(f"settings.{key} must be {wanted}", path, source_map.nearest(path))
        else:
            given[key] = tuple(value) if isinstance(value, list) else value
    return Settings(**given)


def _mismatch(kind: type, value: Any) -> str | None:
    """What a value should have been, `None` when it is right."""
    if kind is bool:
        return None if isinstance(value, bool) else "a bool"
    if kind is int:
        right = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        return None if right else "an int of at least 0"
    strings = isinstance(value, (list, tuple)) and all(isinstance(item, str) and item for item in value)
    return None if strings else "a list of non-empty strings"
