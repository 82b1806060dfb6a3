"""The tree that a configuration is while it is being resolved: values that know where they were written.

Positions live on the nodes themselves, so merging, templates and interpolation move them along for free.
Nodes are never changed once made, hence safely shared; `to_data` makes fresh containers at the end.
"""

from __future__ import annotations

from typing import Any

from model_constructor.config.source_map import ConfigPath, SourceLocation, SourceMap, format_path
from model_constructor.errors import ConfigError

MAX_DEPTH = 100
MAX_VALUES = 1_000_000


class _Unknown:
    """Stands for a value that could not be worked out; its mistake is already noted."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN = _Unknown()


class Node:
    """One value.

    Attributes:
        value: `dict[str, Node]`, `list[Node]` or a scalar.
        loc: where the value was written.
        key_loc: where the mapping key above it was written.
    """

    __slots__ = ("key_loc", "loc", "value")

    def __init__(
        self, value: Any, loc: SourceLocation | None = None, key_loc: SourceLocation | None = None
    ) -> None:
        self.value = value
        self.loc = loc
        self.key_loc = key_loc

    def at(self, loc: SourceLocation | None, key_loc: SourceLocation | None) -> Node:
        """The same value at another position."""
        return Node(self.value, loc, key_loc)

    def holding(self, value: Any) -> Node:
        """Another value at the same position."""
        return Node(value, self.loc, self.key_loc)


def from_data(
    data: Any, source_map: SourceMap | None = None, path: ConfigPath = (), value_path: ConfigPath = ()
) -> Node:
    """Plain data as a tree; `path` names it in errors, `value_path` is where it stands in `source_map`.

    Raises:
        ConfigError: for a mapping key that is not a string, and for data nested more than 100 deep.
    """
    loc = source_map.get(value_path) if source_map is not None else None
    key_loc = source_map.get_key(value_path) if loc is not None and source_map is not None else None
    if len(value_path) > MAX_DEPTH:
        raise ConfigError(f"nested more than {MAX_DEPTH} levels deep", config_path=path, location=loc)
    value: Any = data
    if isinstance(data, dict):
        value = {}
        for key, child in data.items():
            if not isinstance(key, str):
                raise ConfigError(
                    f"mapping keys must be strings, not {key!r}", config_path=path, location=loc
                )
            value[key] = from_data(child, source_map, (*path, key), (*value_path, key))
    elif isinstance(data, (list, tuple)):
        value = [
            from_data(child, source_map, (*path, index), (*value_path, index))
            for index, child in enumerate(data)
        ]
    return Node(value, loc, key_loc)


def to_data(root: Node) -> tuple[Any, SourceMap]:
    """The tree as plain dicts, lists and scalars, and the positions of all of them.

    Raises:
        ConfigError: when aliases and references multiply to more than a million values.
    """
    values: dict[ConfigPath, SourceLocation] = {}
    keys: dict[ConfigPath, SourceLocation] = {}
    count = 0

    def plain(node: Node, path: ConfigPath) -> Any:
        nonlocal count
        count += 1
        if count > MAX_VALUES or len(path) > MAX_DEPTH:
            limit = (
                f"more than {MAX_VALUES} values" if count > MAX_VALUES else f"more than {MAX_DEPTH} levels"
            )
            raise ConfigError(
                f"the configuration unfolds to {limit} at {format_path(path[:4])}",
                config_path=path[:4],
                location=root.loc,
            )
        if node.loc is not None:
            values[path] = node.loc
        if node.key_loc is not None:
            keys[path] = node.key_loc
        if isinstance(node.value, dict):
            return {key: plain(child, (*path, key)) for key, child in node.value.items()}
        if isinstance(node.value, list):
            return [plain(child, (*path, index)) for index, child in enumerate(node.value)]
        return node.value

    return plain(root, ()), SourceMap(values, keys)
