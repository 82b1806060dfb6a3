"""Where in a component's model YAML something stands."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from model_constructor import ConfigError as ModelConfigError
from model_constructor import ConfigPath, SourceLocation, resolve_config

MODULES: ConfigPath = ("model", "graph", "modules")
_PLACE = re.compile(r"' at (.+?\.ya?ml):(\d+):(\d+)")  # as the label of a graph's step says it


def place_of_tensor(model: Path, name: str) -> SourceLocation | None:
    """Return where the module stands that holds a tensor `graph_modules.<module>.…`."""
    module = name.removeprefix("graph_modules.").partition(".")[0]
    return _nearest(model, (*MODULES, module))


def place_of_input(model: Path, name: str) -> SourceLocation | None:
    """Return where a graph input is declared."""
    try:
        config = resolve_config(model)
    except ModelConfigError:
        return None
    inputs = config.data.get("model", {}).get("graph", {}).get("inputs", [])
    names = list(inputs)
    here: ConfigPath = ("model", "graph", "inputs")
    return config.source_map.nearest((*here, names.index(name)) if name in names else here)


def declared_size(model: Path, name: str) -> tuple[list[int | str], SourceLocation | None]:
    """Return the size that `shapes` gives an input, such as `["B", 64]`, and where; an empty one if none."""
    try:
        config = resolve_config(model)
    except ModelConfigError:
        return [], None
    size = config.data.get("shapes", {}).get(name)
    if not isinstance(size, list) or not all(type(one) in (int, str) for one in size):
        return [], None
    return size, config.source_map.nearest(("shapes", name))


def place_in_notes(error: BaseException) -> SourceLocation | None:
    """Return the step of a model YAML that the notes of an error name, if they do."""
    for note in getattr(error, "__notes__", []):
        found = _PLACE.search(note)
        if found is not None:
            return SourceLocation(found[1], int(found[2]), int(found[3]))
    return None


def arguments_named(model: Path, name: str) -> Iterator[tuple[int, SourceLocation | None]]:
    """Yield every whole number that a module of a model YAML is given under a name, and where it stands."""
    try:
        config = resolve_config(model)
    except ModelConfigError:
        return
    modules = config.data.get("model", {}).get("graph", {}).get("modules", {})
    for path, value in _leaves(modules, MODULES):
        if path[-1] == name and isinstance(value, int) and not isinstance(value, bool):
            yield value, config.source_map.nearest(path)


def _leaves(value: Any, path: ConfigPath) -> Iterator[tuple[ConfigPath, Any]]:
    if isinstance(value, Mapping):
        for key, child in value.items():
            yield from _leaves(child, (*path, key))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _leaves(child, (*path, index))
    else:
        yield path, value


def _nearest(model: Path, path: ConfigPath) -> SourceLocation | None:
    try:
        return resolve_config(model).source_map.nearest(path)
    except ModelConfigError:
        return None
