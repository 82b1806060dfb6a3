"""From a YAML file, or a dict, to one resolved configuration.

The order is fixed: parse → `defaults` → merge → templates → interpolation → schema.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from model_constructor.config.defaults import defaults_entries, file_of_entry
from model_constructor.config.interpolate import interpolate_node, unread_params
from model_constructor.config.merge import merge_nodes
from model_constructor.config.nodes import UNKNOWN, Node, from_data, to_data
from model_constructor.config.schema import validate_schema_v1
from model_constructor.config.settings import Settings, parse_settings
from model_constructor.config.source_map import SourceMap
from model_constructor.config.templates import expand_node
from model_constructor.config.yaml_loader import load_yaml_node
from model_constructor.errors import ConfigError
from model_constructor.util.problems import Problems

ConfigSource: TypeAlias = dict[str, Any] | str | Path


@dataclass(frozen=True)
class ResolvedConfig:
    """A configuration with nothing left to fill in.

    Attributes:
        data: plain data; `defaults` and `templates` are gone, `imports` is a list.
        source_map: where each value was written; empty for a configuration given as a dict.
        settings: the `settings` section.
        root_file: the path as it was given, `None` for a dict.
    """

    data: dict[str, Any]
    source_map: SourceMap
    settings: Settings
    root_file: str | None


def resolve_config(config_or_path: ConfigSource) -> ResolvedConfig:
    """Resolve a configuration file or dict.

    Raises:
        ConfigError: with every mistake found; nothing is imported or built.
    """
    problems = Problems()
    resolved = resolve_with(config_or_path, problems)
    problems.raise_all(resolved.settings.error_context_lines)
    return resolved


def resolve_with(config_or_path: ConfigSource, problems: Problems) -> ResolvedConfig:
    """As `resolve_config`, noting mistakes and going on with `UNKNOWN` in their places.

    Raises:
        ConfigError: for what leaves nothing to go on with: files that cannot be read, a wrong root.
    """
    try:
        return _resolve(config_or_path, problems)
    except RecursionError:
        name = None if isinstance(config_or_path, dict) else str(config_or_path)
        raise ConfigError(f"{name or 'the configuration'} refers in too long chains to be resolved") from None


def _resolve(config_or_path: ConfigSource, problems: Problems) -> ResolvedConfig:
    root_file = None
    if isinstance(config_or_path, dict):
        if "defaults" in config_or_path:
            raise ConfigError(
                "'defaults' needs a file to be relative to; a dict cannot have it", config_path=("defaults",)
            )
        root = from_data(config_or_path)
    elif isinstance(config_or_path, (str, Path)):
        root_file = str(config_or_path)
        root = _compose(root_file, (), problems)
        # Without all the files, what is missing afterwards would only be noise.
        problems.raise_all(Settings().error_context_lines)
    else:
        raise ConfigError(f"a configuration is a dict or a path, not {type(config_or_path).__name__}")
    root = interpolate_node(expand_node(root, problems), problems)
    data, source_map = to_data(root)
    if data is UNKNOWN or not isinstance(data, dict):
        problems.raise_all()
        raise ConfigError("the configuration must be a mapping", config_path=(), location=root.loc)
    if data.get("imports") is None:
        data["imports"] = []
    validate_schema_v1(data, source_map, problems)
    settings = parse_settings(data.get("settings"), source_map, problems)
    return ResolvedConfig(data, source_map, settings, root_file)


def refuse_unread_params(file: str | Path) -> None:
    """Refuse what a file itself sets under `params` and no `${params.…}` reads, such as a misspelt name.

    What it inherits may be unread, where it has replaced what read it. To be asked of files that users write:
    those in a run folder are filled in, so nothing reads their parameters.

    Raises:
        ConfigError: with every such parameter, or because the file cannot be resolved.
    """
    problems = Problems()
    root = expand_node(_compose(str(file), (), problems), problems)
    problems.raise_all()
    for error in unread_params(root, str(file)):
        problems.take(error)
    problems.raise_all()


def _compose(file: str, stack: tuple[str, ...], problems: Problems) -> Node:
    """A file with the files of its `defaults` beneath it."""
    root = load_yaml_node(file)
    stack = (*stack, file)
    if len(stack) > 1:
        problems.chains[file] = stack
    composed = root.holding({})
    for entry in _with_stack(root, stack, problems):
        included = file_of_entry(entry.value, os.path.dirname(file))
        if any(_same_file(included, above) for above in stack):
            problems.take(
                ConfigError(
                    f"defaults include cycle detected: {included} includes itself",
                    config_path=("defaults",),
                    location=entry.loc,
                    include_stack=[*stack, included],
                )
            )
            continue
        try:
            below = _compose(included, stack, problems)
        except ConfigError as error:
            for one in error.errors:
                problems.take(_included_from(one, entry, (*stack, included)))
            continue
        composed = merge_nodes(composed, below, (), problems)
    own = {key: child for key, child in root.value.items() if key != "defaults"}
    return merge_nodes(composed, root.holding(own), (), problems)


def _included_from(error: ConfigError, entry: Node, stack: tuple[str, ...]) -> ConfigError:
    """An included file's error with the chain that led there; one without a position gets the entry's."""
    return ConfigError(
        error.message,
        config_path=error.config_path if error.location is not None else ("defaults",),
        location=error.location or entry.loc,
        include_stack=error.include_stack or stack,
        suggestions=error.suggestions,
    )


def _with_stack(root: Node, stack: tuple[str, ...], problems: Problems) -> list[Node]:
    """The entries of `defaults`; mistakes in them have the chain of files that led there."""
    found = Problems()
    entries = defaults_entries(root, found)
    for one in found.all():
        problems.take(
            ConfigError(
                one.message,
                config_path=one.config_path,
                location=one.location,
                include_stack=stack if len(stack) > 1 else None,
            )
        )
    return entries


def _same_file(one: str, other: str) -> bool:
    try:
        return os.path.realpath(os.path.expanduser(one)) == os.path.realpath(os.path.expanduser(other))
    except ValueError:
        return False  # no path at all (it holds a null byte); reading it will say so
