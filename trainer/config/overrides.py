"""`--set path=value`: texts of the command line that win over a configuration."""

from __future__ import annotations

import functools
import re

from model_constructor import ConfigError as YamlError
from model_constructor import (
    ConfigPath,
    Node,
    Problems,
    SourceLocation,
    format_path,
    from_data,
    merge_nodes,
    parse_value,
)

_SEGMENT = re.compile(r"""\s*(?:"([^"]+)"|'([^']+)'|([^.\[\]"'\s]+))((?:\[\d{1,9}\])*)\s*(\.|\Z)""")


def overriding(root: Node, text: str, problems: Problems) -> Node | None:
    """Return what one `path=value` lays over a configuration; None where the text is no such thing.

    A path is made of keys with dots between them, and of `[0]` for the entry of a list; a key that holds a
    dot itself stands in quotes: `data.normalization."observation.state"=min_max`. The value is read as YAML.

    Args:
        root: the configuration so far: sections keep their places, and what is set in an entry of a list
            leaves its other entries as they are.
        text: the text.
        problems: takes what is wrong with it.
    """
    place = SourceLocation(f"--set {text}", 0, 0)
    name, separator, value_text = text.partition("=")
    path = _parsed(name)
    if not separator or not path:
        problems.add(f"an override must read `dotted.path=value`, not {text!r}", (), place)
        return None
    if path[0] == "defaults":
        problems.add("`defaults` is read from files only", path, place)
        return None
    try:
        value = _written_at(_value(value_text), place)
    except YamlError:
        problems.add("its value is no YAML", path, place)
        return None
    return _at(root, path, 0, value, problems, place)


@functools.lru_cache(maxsize=1024)
def _value(text: str) -> Node:
    """Return the value of an override; a configuration is also made without each of the others."""
    return from_data(parse_value(text))


@functools.lru_cache(maxsize=1024)
def _parsed(name: str) -> ConfigPath:
    """Return the keys and indices of a dotted path; nothing where it is none."""
    path: list[str | int] = []
    position, ended = 0, False
    while match := _SEGMENT.match(name, position):
        path.append(match[1] or match[2] or match[3])
        path += [int(index) for index in re.findall(r"\d+", match[4])]
        position, ended = match.end(), match[5] == ""
        if ended:
            return tuple(path)
    return ()


def _at(
    below: Node | None, path: ConfigPath, done: int, value: Node, problems: Problems, place: SourceLocation
) -> Node | None:
    if done == len(path):
        return value
    key, here = path[done], format_path(path[:done])
    if below is not None and isinstance(below.value, list):
        index = int(key) if str(key).isdecimal() else None
        if index is None or index >= len(below.value):
            count = len(below.value)
            last = f"[{count - 1}]" if count else ""
            hint = f"its entries are [0] to {last}" if count > 1 else "its only entry is [0]" if count else ""
            wrong = f"has no entry [{key}]" if index is not None else f"is a list and has no key '{key}'"
            problems.add(f"{here} {wrong}; {hint or 'it is empty'}", path, place)
            return None
        inner = _at(below.value[index], path, done + 1, value, problems, place)
        if inner is None:
            return None
        items = list(below.value)
        items[index] = merge_nodes(items[index], inner, path[: done + 1], problems)
        return below.holding(items)
    if isinstance(key, int):
        problems.add(f"{here} is no list, so it has no entry [{key}]", path, place)
        return None
    section = below if below is not None and isinstance(below.value, dict) else None
    beneath = None if section is None else section.value.get(key)
    inner = _at(beneath, path, done + 1, value, problems, place)
    if inner is None:
        return None
    return Node({key: inner}, place, place) if section is None else section.holding({key: inner})


def _written_at(node: Node, place: SourceLocation) -> Node:
    """Return a tree all of which is written at one place."""
    value = node.value
    if isinstance(value, dict):
        value = {key: _written_at(child, place) for key, child in value.items()}
    elif isinstance(value, list):
        value = [_written_at(child, place) for child in value]
    return Node(value, place, place)
