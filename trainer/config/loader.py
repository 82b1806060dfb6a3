"""Reading an experiment YAML: `defaults`, overrides, interpolation, and where every value stands.

Files are read, merged and interpolated by the language of the model YAMLs, `_merge_` included. One thing is
added: `null` takes back what a file builds on, where names are free (`_taken_back`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from model_constructor import ConfigError as YamlError
from model_constructor import (
    ConfigPath,
    Node,
    Problems,
    SourceLocation,
    SourceMap,
    finish_merge,
    from_data,
    interpolate_node,
    load_yaml_node,
    merge_nodes,
    parse_value,
    to_data,
)

from trainer.config.errors import ConfigLoadError
from trainer.config.paths import config_file, search_paths

__all__ = ["ConfigPath", "LocatedConfig", "describe_yaml_error", "load_config", "load_located"]

COMMAND_LINE = "<command line>"
Overrides: TypeAlias = Iterable[str] | Mapping[str, Any]
_FREE_NAMES = ("component_config_paths", "component_build_args", "component_optims")


@dataclass(frozen=True)
class LocatedConfig:
    """A composed configuration and the place of every value in it.

    Attributes:
        data: the merged mapping; `defaults` is gone, `${…}` is filled in.
        source_map: config path → file, line, column.
        chains: file → the files whose `defaults` lead to it, outermost first.
        path: the file that was asked for.
    """

    data: dict[str, Any]
    source_map: SourceMap = field(default_factory=SourceMap)
    chains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    path: Path = Path()

    def locate(self, path: ConfigPath) -> SourceLocation | None:
        """Return where the value at `path` stands, or the nearest value around it."""
        return self.source_map.nearest(path)

    def search_paths(self, path: ConfigPath) -> list[Path]:
        """Return the folders in which the relative file name at `path` is looked up."""
        location = self.locate(path)
        return search_paths(self.path, location.file if location else None)

    def chain(self, location: SourceLocation | None) -> tuple[str, ...]:
        """Return the files that lead to a location, outermost first."""
        return self.chains.get(location.file, ()) if location else ()


def load_config(path: str | Path, overrides: Overrides = ()) -> dict[str, Any]:
    """Load an experiment YAML with its `defaults` merged and its interpolations filled in.

    Args:
        path: the experiment YAML.
        overrides: what wins over the file; see `load_located`.

    Raises:
        ConfigLoadError: a file is missing or is no YAML mapping, or `defaults` is malformed or cyclic.
    """
    return load_located(path, overrides).data


def override_texts(overrides: Overrides) -> list[str]:
    """Return overrides as `dotted.path=value` texts, whichever way they were given."""
    if isinstance(overrides, Mapping):
        return [f"{path}={json.dumps(value, default=_plain)}" for path, value in overrides.items()]
    return [overrides] if isinstance(overrides, str) else list(overrides)


def _plain(value: Any) -> Any:
    """Return what a YAML would hold of a path, or of a number or an array of numpy."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    kind = type(value).__name__
    raise ConfigLoadError(f"an override is a number, a text, a list, a mapping or None, not a {kind}")


def load_located(path: str | Path, overrides: Overrides = ()) -> LocatedConfig:
    """Load an experiment YAML and keep the position of every value.

    Args:
        path: the experiment YAML.
        overrides: what wins over the file: `dotted.path=value` texts, whose values are read as YAML, or a
            mapping of dotted paths to values.

    Raises:
        ConfigLoadError: see `load_config`; also for an override that is no assignment.
    """
    path = config_file(path)
    problems = Problems()
    files = _Files(problems)
    try:
        root = files.compose(path, (), None)
        for text in override_texts(overrides):
            root = _lay_over(root, _override(text), problems)
        root = interpolate_node(finish_merge(root, (), problems), problems)
        problems.raise_all()
        data, source_map = to_data(root)
    except YamlError as error:
        raise ConfigLoadError(describe_yaml_error(error)) from None
    except RecursionError:
        raise ConfigLoadError(f"{path}: what it holds refers to itself too deeply") from None
    return LocatedConfig(data, source_map, files.chains, path)


def describe_yaml_error(error: YamlError) -> str:
    """Return a model-language error as one `file:line:col: sentence` line per mistake."""
    lines = []
    for one in error.errors:
        known = f"; did you mean '{one.suggestions[0]}'?" if one.suggestions else ""
        lines.append(f"{_place(one.location)}{one.message}{known}")
    return "\n".join(lines)


class _Files:
    """Loads files with everything that their `defaults` name; each is read once.

    Attributes:
        chains: file → the files whose `defaults` lead to it, outermost first.
    """

    def __init__(self, problems: Problems) -> None:
        self.chains: dict[str, tuple[str, ...]] = {}
        self._problems = problems
        self._composed: dict[Path, Node] = {}

    def compose(self, path: Path, stack: tuple[Path, ...], declared: SourceLocation | None) -> Node:
        """Return a file laid over what its `defaults` name, a later entry over the ones before."""
        place = _place(declared)
        try:
            is_file, resolved = path.is_file(), path.resolve()
        except (OSError, ValueError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigLoadError(
                f"{place}config file {_shortened(str(path))!r} cannot be: {reason}"
            ) from None
        if resolved in stack:
            cycle = " -> ".join(p.name for p in (*stack[stack.index(resolved) :], resolved))
            raise ConfigLoadError(f"{place}defaults include each other in a cycle: {cycle}")
        if not is_file:
            raise ConfigLoadError(f"{place}config file not found: {path}")
        if resolved in self._composed:
            return self._composed[resolved]
        root = load_yaml_node(path)
        chain = (*stack, resolved)
        self.chains[str(path)] = tuple(_shown(str(p)) for p in chain)
        below = root.holding({})
        for entry in _defaults(root):
            included = self.compose(config_file(entry.value, path.parent), chain, entry.loc)
            below = _lay_over(below, included, self._problems)
        own = root.holding({key: child for key, child in root.value.items() if key != "defaults"})
        self._composed[resolved] = _lay_over(below, own, self._problems)
        return self._composed[resolved]


def _defaults(root: Node) -> list[Node]:
    """Return the paths under `defaults`: `- base.yaml`, or `- label: base.yaml`."""
    found = root.value.get("defaults")
    if found is None or found.value is None:
        return []
    if not isinstance(found.value, list):
        raise ConfigLoadError(f"{_place(found.loc)}defaults must be a list such as `- base.yaml`")
    entries = []
    for entry in found.value:
        label = ""
        if isinstance(entry.value, dict) and len(entry.value) == 1:
            ((name, target),) = entry.value.items()
            label, entry = f" of defaults entry '{name}'", target
        elif isinstance(entry.value, dict):
            raise ConfigLoadError(
                f"{_place(entry.loc)}an entry of defaults must be one path or one `label: path`, "
                f"not {len(entry.value)} of them"
            )
        if not isinstance(entry.value, str) or not entry.value:
            raise ConfigLoadError(
                f"{_place(entry.loc)}the path{label or ' of a defaults entry'} must be text"
            )
        entries.append(entry)
    return entries


def _lay_over(below: Node, above: Node, problems: Problems) -> Node:
    """Merge two files; mappings key by key, everything else is replaced, `_merge_` says otherwise."""
    return _taken_back(merge_nodes(below, above, (), problems), below, above, ())


def _taken_back(merged: Node, below: Node, above: Node, path: ConfigPath) -> Node:
    """Leave out what `above` sets to null of what `below` gives, where names are free.

    So a file that chooses another optimizer than the one it builds on can drop its parameters. Elsewhere null
    is a value like others: the schema says what it means.
    """
    if not all(isinstance(node.value, dict) for node in (merged, below, above)):
        return merged
    names_are_free = "params" in path[1:] or (path and path[-1] in _FREE_NAMES)
    kept = dict(merged.value)
    for key, child in above.value.items():
        beneath = below.value.get(key)
        if beneath is None or beneath.value is None or key not in kept:
            continue
        if child.value is None:
            if names_are_free or (path and key == "params"):
                del kept[key]
        else:
            kept[key] = _taken_back(kept[key], beneath, child, (*path, key))
    return merged.holding(kept)


def _override(text: str) -> Node:
    """Return `dotted.path=value` as the file that would say so."""
    name, separator, value_text = text.partition("=")
    keys = name.strip().split(".")
    if not separator or not all(keys):
        raise ConfigLoadError(f"{COMMAND_LINE}: an override must read `dotted.path=value`, not {text!r}")
    location = SourceLocation(COMMAND_LINE, 1, 1)
    try:
        node = _written_at(from_data(parse_value(value_text)), location)
    except YamlError:
        raise ConfigLoadError(f"{COMMAND_LINE}: the value of override {text!r} is no YAML") from None
    for key in reversed(keys):
        node = Node({key: node}, location)
    return node


def _written_at(node: Node, location: SourceLocation) -> Node:
    """Return a tree all of which is written at one place."""
    value: Any = node.value
    if isinstance(value, dict):
        value = {key: _written_at(child, location) for key, child in value.items()}
    elif isinstance(value, list):
        value = [_written_at(child, location) for child in value]
    return Node(value, location, location)


def _place(location: SourceLocation | None) -> str:
    return f"{location.format()}: " if location else ""


def _shown(path: str) -> str:
    """Return a path relative to the current folder where that is shorter."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return path


def _shortened(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}…"
