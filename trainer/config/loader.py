"""Reading an experiment YAML: `defaults`, overrides, interpolation, and where every value stands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from model_constructor.config.interpolate import interpolate_config
from model_constructor.config.source_map import SourceLocation, SourceMap
from model_constructor.config.yaml_loader import load_yaml_file
from model_constructor.errors import ConfigError as YamlError

from trainer.config.errors import ConfigLoadError
from trainer.config.paths import search_paths

ConfigPath = tuple[str | int, ...]
COMMAND_LINE = "<command line>"


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
    source_map: SourceMap
    chains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    path: Path = Path()

    def locate(self, path: ConfigPath) -> SourceLocation | None:
        """Return where the value at `path` stands, or the nearest value around it."""
        for length in range(len(path), -1, -1):
            location = self.source_map.get(path[:length])
            if location is not None:
                return location
        return None

    def search_paths(self, path: ConfigPath) -> list[Path]:
        """Return the folders in which the relative file name at `path` is looked up."""
        location = self.locate(path)
        return search_paths(self.path, location.file if location else None)

    def chain(self, location: SourceLocation | None) -> tuple[str, ...]:
        """Return the files that lead to a location, outermost first."""
        return self.chains.get(location.file, ()) if location else ()


def load_config(path: str | Path) -> dict[str, Any]:
    """Load an experiment YAML with its `defaults` merged and its interpolations filled in.

    Raises:
        ConfigLoadError: a file is missing or is no YAML mapping, or `defaults` is malformed or cyclic.
    """
    return load_located(path).data


def load_located(path: str | Path, overrides: Iterable[str] = ()) -> LocatedConfig:
    """Load an experiment YAML and keep the position of every value.

    Args:
        path: the experiment YAML.
        overrides: `dotted.path=value` texts that win over the file; values are read as YAML.

    Raises:
        ConfigLoadError: see `load_config`; also for an override that is no assignment.
    """
    path = Path(path).expanduser()
    chains: dict[str, tuple[str, ...]] = {}
    data, positions = _compose(path, (), chains, None)
    for text in overrides:
        _apply_override(data, positions, text)
    try:
        data, source_map = interpolate_config(data, SourceMap(positions))
    except YamlError as error:
        raise ConfigLoadError(describe_yaml_error(error)) from None
    return LocatedConfig(data, source_map, chains, path)


def describe_yaml_error(error: YamlError) -> str:
    """Return a model-language error as one `file:line:col: sentence` line per mistake."""
    lines = []
    for one in getattr(error, "errors", None) or [error]:
        place = f"{one.location.format()}: " if one.location else ""
        known = f"; did you mean '{one.suggestions[0]}'?" if one.suggestions else ""
        lines.append(f"{place}{one.message}{known}")
    return "\n".join(lines)


Positions = dict[ConfigPath, SourceLocation]


def _compose(
    path: Path, stack: tuple[Path, ...], chains: dict[str, tuple[str, ...]], declared: SourceLocation | None
) -> tuple[dict[str, Any], Positions]:
    """Load one file and everything that its `defaults` name, the later entry winning."""
    place = f"{declared.format()}: " if declared else ""
    resolved = path.resolve()
    if resolved in stack:
        cycle = " -> ".join(p.name for p in (*stack[stack.index(resolved) :], resolved))
        raise ConfigLoadError(f"{place}defaults include each other in a cycle: {cycle}")
    if not path.is_file():
        raise ConfigLoadError(f"{place}config file not found: {path}")
    data, positions = _read(path)
    chain = tuple(str(p) for p in (*stack, resolved))
    chains.setdefault(str(path), tuple(_shown(p) for p in chain))

    merged: dict[str, Any] = {}
    merged_positions: Positions = {}
    for entry_path, location in _defaults(data, positions):
        base = path.parent / Path(entry_path).expanduser()
        included, included_positions = _compose(base, (*stack, resolved), chains, location)
        _merge(merged, merged_positions, included, included_positions)
    data.pop("defaults", None)
    _merge(merged, merged_positions, data, positions)
    return merged, merged_positions


def _read(path: Path) -> tuple[dict[str, Any], Positions]:
    try:
        data, source_map = load_yaml_file(path)
    except YamlError as error:
        raise ConfigLoadError(describe_yaml_error(error)) from None
    if not isinstance(data, dict):
        raise ConfigLoadError(f"{path}:1:1: the file must be a mapping of keys to values")
    return data, dict(source_map.items())


def _defaults(data: dict[str, Any], positions: Positions) -> list[tuple[str, SourceLocation | None]]:
    """Return the paths under `defaults` with their places."""
    entries = data.get("defaults") or []
    here = positions.get(("defaults",))
    if not isinstance(entries, list):
        raise ConfigLoadError(f"{_place(here)}defaults must be a list such as `- base: ./base.yaml`")
    found = []
    for index, entry in enumerate(entries):
        at = positions.get(("defaults", index), here)
        if not isinstance(entry, dict) or len(entry) != 1:
            raise ConfigLoadError(
                f"{_place(at)}an entry of defaults must be one `label: path`, not {entry!r}"
            )
        ((label, target),) = entry.items()
        if not isinstance(target, str):
            raise ConfigLoadError(f"{_place(at)}the path of defaults entry '{label}' must be text")
        found.append((target, positions.get(("defaults", index, label), at)))
    return found


def _merge(
    base: dict[str, Any], base_positions: Positions, override: dict[str, Any], positions: Positions
) -> None:
    """Merge mappings key by key; everything else, lists too, is replaced, and its positions with it."""
    base_positions.update({(): positions[()]} if () in positions else {})

    def walk(into: dict[str, Any], source: dict[str, Any], path: ConfigPath) -> None:
        for key, value in source.items():
            here = (*path, key)
            if isinstance(value, dict) and isinstance(into.get(key), dict):
                if here in positions:
                    base_positions[here] = positions[here]
                walk(into[key], value, here)
                continue
            for old in [p for p in base_positions if p[: len(here)] == here]:
                del base_positions[old]
            base_positions.update({p: at for p, at in positions.items() if p[: len(here)] == here})
            into[key] = value

    walk(base, override, ())


def _apply_override(data: dict[str, Any], positions: Positions, text: str) -> None:
    name, separator, value_text = text.partition("=")
    keys: Sequence[str] = name.strip().split(".")
    if not separator or not all(keys):
        raise ConfigLoadError(f"{COMMAND_LINE}: an override must read `dotted.path=value`, not {text!r}")
    try:
        value = yaml.safe_load(value_text)
    except yaml.YAMLError:
        raise ConfigLoadError(f"{COMMAND_LINE}: the value of override {text!r} is no YAML") from None
    nested: dict[str, Any] = {keys[-1]: value}
    for key in reversed(keys[:-1]):
        nested = {key: nested}
    location = SourceLocation(COMMAND_LINE, 1, 1)
    _merge(data, positions, nested, {tuple(keys[: i + 1]): location for i in range(len(keys))})


def _place(location: SourceLocation | None) -> str:
    return f"{location.format()}: " if location else ""


def _shown(path: str) -> str:
    """Return a path relative to the current folder where that is shorter."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return path
