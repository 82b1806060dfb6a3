"""Puts values in place of `${path.to[0].value}` and `${env:type:NAME,default}`.

A string that is nothing but one site becomes the value itself, with its type; sites inside longer strings
become text. Paths are looked up from the root and may lead through values that are sites themselves.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
from typing import Any

from model_constructor.config.nodes import UNKNOWN, Node, from_data, to_data
from model_constructor.config.source_map import ConfigPath, SourceLocation, SourceMap, format_path
from model_constructor.errors import ConfigError
from model_constructor.util.problems import Problems
from model_constructor.util.suggest import closest

_SEGMENT = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)\Z")
_INDEX = re.compile(r"\[([^\[\]]*)\]")
_TYPES = ("int", "float", "bool", "json")
MAX_TEXT = 1_000_000
_MAX_SOURCES = 8
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


def interpolate_config(data: Any, source_map: SourceMap | None = None) -> tuple[Any, SourceMap]:
    """`data` with all sites filled in, in new containers, and where each value of it was written.

    A filled-in value has the position of its site; what hangs below it keeps the position that it had.

    Raises:
        ConfigError: for all sites that cannot be filled in, at once.
    """
    problems = Problems()
    root = interpolate_node(from_data(data, source_map), problems)
    problems.raise_all()
    return to_data(root)


def interpolate_node(root: Node, problems: Problems) -> Node:
    """The tree with its sites filled in; one that cannot be becomes `UNKNOWN`, its mistake noted."""
    return _Interpolator(root, problems).resolve(root, ())


def unread_params(root: Node, file: str) -> list[ConfigError]:
    """The mistakes of a file that sets under `params` what no `${params.…}` reads, such as a misspelt name.

    What the file inherits may be unread: it may have replaced what read it.

    Args:
        root: the file with those of its `defaults` beneath it, nothing filled in.
        file: its path.
    """
    params = root.value.get("params") if isinstance(root.value, dict) else None
    if params is None or not isinstance(params.value, dict):
        return []
    read = [path[1:] for path in _paths_read(root) if path[0] == "params"]
    names = sorted({str(path[0]) for path in read if path})
    known = ", ".join(names) or "no parameter"
    return [
        ConfigError(
            f"nothing reads '{name}', so it has no effect; what is read: {known}",
            config_path=("params", name),
            location=node.key_loc,
            suggestions=closest(name, names),
        )
        for name, node in params.value.items()
        if name not in names
        and () not in read
        and (node.key_loc is None or os.path.realpath(node.key_loc.file) == os.path.realpath(file))
    ]


def _paths_read(root: Node) -> set[tuple[str | int, ...]]:
    """The paths that the sites of a tree name, `${env:…}` left out; what is no path is left to filling in."""
    found: set[tuple[str | int, ...]] = set()
    if isinstance(root.value, dict):
        return found.union(*(_paths_read(child) for child in root.value.values()))
    if isinstance(root.value, list):
        return found.union(*(_paths_read(child) for child in root.value))
    for piece in _split(root.value) if isinstance(root.value, str) else ():
        if isinstance(piece, _Site) and not piece.is_env:
            with contextlib.suppress(ConfigError):
                found.add(tuple(_parse_path(piece.body, root, ())))
    return found


class _Interpolator:
    def __init__(self, root: Node, problems: Problems) -> None:
        self.root = root
        self.problems = problems
        self._resolved: dict[ConfigPath, Node] = {}
        self._open: list[ConfigPath] = []
        self._followed: list[ConfigPath] = []

    def resolve(self, node: Node, path: ConfigPath) -> Node:
        """The node at `path`, filled in."""
        if path in self._resolved:
            return self._resolved[path]
        if not isinstance(node.value, (dict, list, str)):
            return node
        if path in self._open:
            raise self._cycle([*self._open[self._open.index(path) :], path], node)
        self._open.append(path)
        try:
            if isinstance(node.value, dict):
                value: Any = {key: self._child(child, (*path, key)) for key, child in node.value.items()}
            elif isinstance(node.value, list):
                value = [self._child(child, (*path, index)) for index, child in enumerate(node.value)]
            else:
                node, value = self._string(node, path)
        finally:
            self._open.pop()
        self._resolved[path] = node.holding(value)
        return self._resolved[path]

    def _child(self, child: Node, path: ConfigPath) -> Node:
        try:
            return self.resolve(child, path)
        except ConfigError as error:
            self.problems.take(error)
            self._resolved[path] = child.holding(UNKNOWN)
            return self._resolved[path]

    def _cycle(self, chain: list[ConfigPath], node: Node) -> ConfigError:
        names = " -> ".join(format_path(path) for path in chain)
        return ConfigError(f"Interpolation cycle detected: {names}", config_path=chain[0], location=node.loc)

    def _string(self, node: Node, path: ConfigPath) -> tuple[Node, Any]:
        """The node of a text, knowing what filled in its sites, and the value that it comes to."""
        pieces = _split(node.value)
        if len(pieces) == 1 and not isinstance(pieces[0], _Site):
            return node, node.value
        filled: list[str] = []
        if len(pieces) == 1 and isinstance(pieces[0], _Site):
            value = self._site(pieces[0], node, path, filled)
        else:
            value = self._text(pieces, node, path, filled)
        if node.loc is None or not filled:
            return node, value
        node = node.at(dataclasses.replace(node.loc, filled_from=tuple(filled)), node.key_loc)
        return node, _placed(value, node.loc)

    def _text(self, pieces: list[str | _Site], node: Node, path: ConfigPath, filled: list[str]) -> Any:
        text, length = [], 0
        for piece in pieces:
            value = self._site(piece, node, path, filled) if isinstance(piece, _Site) else piece
            if value is UNKNOWN:
                return UNKNOWN
            if isinstance(value, (dict, list)):
                value = json.dumps(to_data(Node(value))[0], default=str)
            text.append(str(value))
            length += len(text[-1])
            if length > MAX_TEXT:
                message = f"filled in, this text is longer than {MAX_TEXT:,} letters"
                raise ConfigError(message, config_path=path, location=node.loc)
        return "".join(text)

    def _site(self, site: _Site, node: Node, path: ConfigPath, filled: list[str]) -> Any:
        """The value of a site; where it came from is added to `filled`."""
        if site.is_env:
            filled.append(_variable(site.body))
            return self._environment(site.body, node, path)
        found, place = self._look_up(site.body, node, path)
        if place is not None:
            found = self.resolve(found, place)
        if found.loc is not None:
            filled += [f"{site.body} at {found.loc.format()}", *found.loc.filled_from][:_MAX_SOURCES]
        return found.value

    def _look_up(self, body: str, site: Node, path: ConfigPath) -> tuple[Node, ConfigPath | None]:
        """The raw node that a path names and its own path; no path for a value that is finished already."""
        segments = _parse_path(body, site, path)
        node, place = self.root, ()  # type: tuple[Node, ConfigPath | None]
        for segment in segments:
            node, place = self._through(node, place)
            if node.value is UNKNOWN:
                return node, None
            if isinstance(segment, int):
                if not isinstance(node.value, list) or segment >= len(node.value):
                    length = f"a list of {len(node.value)}" if isinstance(node.value, list) else "no list"
                    raise ConfigError(
                        f"Invalid config path (list index): '{body}', [{segment}] of {length}",
                        config_path=path,
                        location=site.loc,
                    )
                node = node.value[segment]
            elif isinstance(node.value, dict) and segment in node.value:
                node = node.value[segment]
            else:
                known = list(node.value) if isinstance(node.value, dict) else []
                raise ConfigError(
                    f"Invalid config path (missing key): '{body}', no '{segment}'",
                    config_path=path,
                    location=site.loc,
                    suggestions=closest(segment, known, 5),
                )
            place = None if place is None else (*place, segment)
        return node, place

    def _through(self, node: Node, place: ConfigPath | None) -> tuple[Node, ConfigPath | None]:
        """Where a node leads that is itself nothing but a site; any other node as it is.

        Follows the reference only, without filling in what it points at: `q: ${p}` and `p: {a: ${q.b}, b: 1}`
        is no cycle.
        """
        if place is None or not isinstance(node.value, str):
            return node, place
        pieces = _split(node.value)
        if len(pieces) != 1 or not isinstance(pieces[0], _Site):
            return node, place
        if pieces[0].is_env:
            return Node(self._environment(pieces[0].body, node, place)), None
        if place in self._followed:
            raise self._cycle([*self._followed[self._followed.index(place) :], place], node)
        self._followed.append(place)
        try:
            return self._through(*self._look_up(pieces[0].body, node, place))
        finally:
            self._followed.pop()

    def _environment(self, body: str, node: Node, path: ConfigPath) -> Any:
        kind, name, default = _parse_env(body)
        if not name:
            raise ConfigError("'${env:…}' needs a variable's name", config_path=path, location=node.loc)
        try:
            text = os.environ.get(name, default)
        except ValueError:
            text = default
        if text is None:
            types = closest(name.split(":", 1)[0], _TYPES) if ":" in name else []
            raise ConfigError(
                f"Missing env var '{name}'", config_path=path, location=node.loc, suggestions=types
            )
        if kind is None:
            return text
        text = text.strip()
        if not text:
            raise ConfigError(f"Env var '{name}' is empty/whitespace", config_path=path, location=node.loc)
        try:
            return from_data(_cast(kind, text)).value
        except (ValueError, ConfigError, RecursionError) as error:
            raise ConfigError(
                f"Failed to cast env var '{name}' as {kind}: {error}", config_path=path, location=node.loc
            ) from None


class _Site:
    """A `${…}`: what stands between the braces."""

    __slots__ = ("body", "is_env")

    def __init__(self, body: str) -> None:
        self.body = body.strip()
        self.is_env = self.body.startswith("env:")


def _split(text: str) -> list[str | _Site]:
    """A string as literal pieces and sites. Only `env:` sites may hold braces (balanced, for JSON)."""
    pieces: list[str | _Site] = []
    literal, position = 0, 0
    while (start := text.find("${", position)) >= 0:
        end = _closing(text, start + 2)
        if end is None:
            position = start + 2
            continue
        if start > literal:
            pieces.append(text[literal:start])
        pieces.append(_Site(text[start + 2 : end]))
        literal = position = end + 1
    if literal < len(text) or not pieces:
        pieces.append(text[literal:])
    return pieces


def _closing(text: str, start: int) -> int | None:
    """Where the site that begins at `start` closes; `None` when that is no site."""
    braces_allowed = text[start:].lstrip().startswith("env:")
    depth = 0
    for index in range(start, len(text)):
        if text[index] == "{":
            if not braces_allowed:
                return None
            depth += 1
        elif text[index] == "}":
            if depth == 0:
                return index if index > start else None
            depth -= 1
    return None


def _parse_path(body: str, site: Node, path: ConfigPath) -> list[str | int]:
    segments: list[str | int] = []
    for part in body.split("."):
        match = _SEGMENT.match(part)
        if match is None or match[1] != match[1].strip():
            raise ConfigError(f"Invalid config path expression '{body}'", config_path=path, location=site.loc)
        segments.append(match[1])
        for index in _INDEX.findall(match[2]):
            if not re.fullmatch(r"[0-9]{1,9}", index):
                raise ConfigError(
                    f"Invalid list index in config path expression '{body}'",
                    config_path=path,
                    location=site.loc,
                )
            segments.append(int(index))
    return segments


def _parse_env(body: str) -> tuple[str | None, str, str | None]:
    """Type, name and default of `env:…`; a word that is no type is part of the name."""
    rest = body.removeprefix("env:")
    name, comma, default = rest.partition(",")
    kind, colon, typed_name = name.partition(":")
    if colon and kind.strip() in _TYPES:
        return kind.strip(), typed_name.strip(), default if comma else None
    return None, name.strip(), default if comma else None


def _placed(value: Any, loc: SourceLocation | None) -> Any:
    """A value whose parts that stand in no file, since a variable gave them, stand where its site does."""
    if isinstance(value, dict):
        return {key: child if child.loc else _standing(child, loc) for key, child in value.items()}
    if isinstance(value, list):
        return [child if child.loc else _standing(child, loc) for child in value]
    return value


def _standing(node: Node, loc: SourceLocation | None) -> Node:
    return Node(_placed(node.value, loc), loc)


def _variable(body: str) -> str:
    """What an `env:` site is filled in from, in words."""
    _, name, default = _parse_env(body)
    try:
        is_set = name in os.environ
    except ValueError:
        is_set = False
    given = is_set or default is None
    return f"environment variable {name}" if given else f"the default of environment variable {name}"


def _cast(kind: str, text: str) -> Any:
    if kind == "int":
        prefixed = re.match(r"[+-]?0[xobXOB]", text)
        return int(text, 0) if prefixed else int(text)
    if kind == "float":
        return float(text)
    if kind == "json":
        return json.loads(text)
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError(f"'{text}' is neither {'/'.join(_TRUE)} nor {'/'.join(_FALSE)}")
