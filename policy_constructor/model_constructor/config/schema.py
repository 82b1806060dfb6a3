"""Checks the top level of a resolved configuration, schema version 1."""

from __future__ import annotations

from typing import Any

from model_constructor.config.nodes import UNKNOWN
from model_constructor.config.source_map import SourceMap
from model_constructor.util.problems import Problems
from model_constructor.util.suggest import closest

FORMS = ("sequential", "graph")


def validate_schema_v1(
    data: dict[str, Any], source_map: SourceMap | None = None, problems: Problems | None = None
) -> None:
    """Check `schema_version`, `imports` and the outer shape of `model`.

    Mistakes are noted in `problems`.

    Raises:
        ConfigError: when no `problems` are given to note mistakes in.
    """
    noted = Problems() if problems is None else problems
    located = source_map or SourceMap()
    _check_version(data, located, noted)
    _check_imports(data.get("imports"), located, noted)
    _check_model(data, located, noted)
    if problems is None:
        noted.raise_all()


def _check_version(data: dict[str, Any], source_map: SourceMap, problems: Problems) -> None:
    path = ("schema_version",)
    if "schema_version" not in data:
        similar = closest("schema_version", data)
        problems.add("'schema_version: 1' is missing", path, source_map.nearest(path), similar)
        return
    version = data["schema_version"]
    if version is not UNKNOWN and (type(version) is not int or version != 1):
        problems.add(f"schema_version must be the number 1, not {version!r}", path, source_map.nearest(path))


def _check_imports(imports: Any, source_map: SourceMap, problems: Problems) -> None:
    if imports is None or imports is UNKNOWN:
        return
    if not isinstance(imports, list):
        problems.add(
            "'imports' must be a list of module names", ("imports",), source_map.nearest(("imports",))
        )
        return
    for index, name in enumerate(imports):
        path = ("imports", index)
        if name is not UNKNOWN and not (isinstance(name, str) and name):
            problems.add("an import must be a module's name", path, source_map.nearest(path))


def _check_model(data: dict[str, Any], source_map: SourceMap, problems: Problems) -> None:
    path = ("model",)
    if "model" not in data:
        problems.add("'model' is missing", path, source_map.nearest(path), closest("model", data))
        return
    model = data["model"]
    if model is UNKNOWN:
        return
    if not isinstance(model, dict):
        problems.add("'model' must be a mapping", path, source_map.nearest(path))
        return
    is_misspelt = False
    for key in model:
        if key not in FORMS:
            at = (*path, key)
            near = closest(key, FORMS)
            problems.add(f"Unknown key '{key}' in model", at, source_map.get_key(at), near)
            is_misspelt = is_misspelt or bool(near)
    chosen = [form for form in FORMS if form in model]
    if not chosen and is_misspelt:
        return
    if len(chosen) != 1:
        problems.add("'model' needs exactly one of 'sequential' and 'graph'", path, source_map.get_key(path))
        return
    form = model[chosen[0]]
    if not isinstance(form, dict) and form is not UNKNOWN:
        at = (*path, chosen[0])
        problems.add(f"'{chosen[0]}' must be a mapping", at, source_map.nearest(at))
