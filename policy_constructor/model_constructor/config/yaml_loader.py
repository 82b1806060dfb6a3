"""Reads YAML strictly and remembers where everything stood."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml

from model_constructor.config.nodes import MAX_DEPTH, UNKNOWN, Node, to_data
from model_constructor.config.source_map import SourceLocation, SourceMap
from model_constructor.errors import ConfigError
from model_constructor.util.problems import Problems
from model_constructor.util.suggest import closest

_TAG = "tag:yaml.org,2002:"
# PyYAML takes `1e-4` for text, since the numbers of YAML 1.1 have a point; those of YAML 1.2 need none.
_EXPONENT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+\Z")


# libyaml parses about ten times faster; both give the same events and the same positions.
class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    pass


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    pass


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(_TAG + "float", _EXPONENT, list("-+.0123456789"))


def load_yaml_file(path: str | Path) -> tuple[dict[str, Any], SourceMap]:
    """The mapping in a YAML file, and the position of every value and key in it.

    Stricter than YAML: keys are strings and stand once, one document a file, no tags beyond the standard
    scalars. Anchors, aliases and merge keys (`<<`) work; a key written beside `<<` wins over a merged one.

    Raises:
        ConfigError: the file cannot be read, or anything in it is wrong; `.errors` lists all of it.
    """
    data, source_map = to_data(load_yaml_node(path))
    return data, source_map


def load_yaml_node(path: str | Path) -> Node:
    """Like `load_yaml_file`, as a tree of nodes that carry their positions."""
    file = Path(os.path.expanduser(path))
    try:
        if file.exists() and not file.is_file():  # a pipe or a device would be read for ever
            raise ConfigError(f"not a file: {file}")
        text = file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"file not found: {file}", suggestions=files_like(file)) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"not UTF-8 text: {file} (byte {error.start})") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from None
    return parse_yaml(text, str(path))


def files_like(path: str | Path) -> list[str]:
    """The name of the YAML file beside a missing one that was probably meant, if there is one."""
    try:
        names = {other.stem: other.name for other in Path(path).parent.glob("*.y*ml")}
    except (OSError, ValueError):
        return []
    return [names[stem] for stem in closest(Path(path).stem, names)]


def parse_value(text: str) -> Any:
    """One value as it would be read in a file, such as `1e-4` or `[a, b]`.

    Raises:
        ConfigError: the text is no YAML.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"Invalid YAML: {error}") from None


def dump_yaml(data: Any) -> str:
    """Plain data as YAML that reads back as it was, in the order of its keys."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def parse_yaml(text: str, file: str) -> Node:
    """The mapping written in `text`; `file` is the name that positions carry.

    Raises:
        ConfigError: as `load_yaml_file`.
    """
    start = SourceLocation(file, 1, 1)
    composer = _Composer(text, file)
    try:
        root = composer.document()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        if "tab character" in problem or "'\\t'" in problem:
            problem += "; indent with spaces"
        composer.problems.take(
            ConfigError(
                f"Invalid YAML: {problem}",
                config_path=(),
                location=start if mark is None else SourceLocation(file, mark.line + 1, mark.column + 1),
            )
        )
        root = None
    finally:
        composer.loader.dispose()
    composer.problems.raise_all()
    if root is None or root.value is None:
        raise ConfigError("the file is empty", config_path=(), location=start)
    if not isinstance(root.value, dict):
        raise ConfigError(
            f"the file must hold a mapping, not {_named(root.value)}", config_path=(), location=root.loc
        )
    return root


def _named(value: Any) -> str:
    return "a list" if isinstance(value, list) else f"the value {value!r}"


class _Composer:
    """Turns parser events into nodes; mistakes that leave the rest readable are collected."""

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self.problems = Problems()
        self.loader: Any = _Loader(text)
        self._anchors: dict[str, Node | None] = {}

    def document(self) -> Node | None:
        """The only document; `None` when there is none."""
        get = self.loader.get_event
        get()  # start of stream
        if isinstance(get(), yaml.StreamEndEvent):
            return None
        root = self._node(get(), ())
        get()  # end of document
        extra = get()
        if not isinstance(extra, yaml.StreamEndEvent):
            self._wrong("only one YAML document may stand in a file", extra, ())
        return root

    def _location(self, event: Any) -> SourceLocation:
        return SourceLocation(self.file, event.start_mark.line + 1, event.start_mark.column + 1)

    def _wrong(self, message: str, event: Any, path: tuple[str | int, ...]) -> None:
        self.problems.add(message, path, self._location(event))

    def _node(self, event: Any, path: tuple[str | int, ...], key_loc: SourceLocation | None = None) -> Node:
        if len(path) > MAX_DEPTH:
            raise yaml.MarkedYAMLError(None, None, f"nested more than {MAX_DEPTH} levels", event.start_mark)
        loc = self._location(event)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, path).at(loc, key_loc)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            node = Node(self._scalar(event, path), loc, key_loc)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._check_tag(event, "seq", path)
            node = Node(self._sequence(path), loc, key_loc)
        else:
            self._check_tag(event, "map", path)
            node = Node(self._mapping(path), loc, key_loc)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _alias(self, event: Any, path: tuple[str | int, ...]) -> Node:
        if event.anchor not in self._anchors:
            self._wrong(f"alias '*{event.anchor}' has no anchor above it", event, path)
            return Node(UNKNOWN)
        node = self._anchors[event.anchor]
        if node is None:
            self._wrong(f"alias '*{event.anchor}' stands inside its own anchor", event, path)
            return Node(UNKNOWN)
        return node

    def _check_tag(self, event: Any, standard: str, path: tuple[str | int, ...]) -> None:
        if event.tag not in (None, "!", _TAG + standard):
            self._wrong(f"the YAML tag '{event.tag}' is not supported", event, path)

    def _tag(self, event: Any) -> str:
        if event.tag is not None and event.tag != "!":
            return event.tag
        return self.loader.resolve(yaml.ScalarNode, event.value, event.implicit)

    def _scalar(self, event: Any, path: tuple[str | int, ...]) -> Any:
        tag = self._tag(event)
        if tag in (_TAG + "str", _TAG + "merge", _TAG + "value"):
            return event.value
        try:
            return self.loader.construct_object(
                yaml.ScalarNode(tag, event.value, event.start_mark, event.end_mark)
            )
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, yaml.YAMLError):
            # PyYAML lets the errors of int(), float() and datetime() through, e.g. for `2001-99-99`.
            self._wrong(f"'{event.value}' is no value of type '{tag.removeprefix(_TAG)}'", event, path)
            return UNKNOWN

    def _sequence(self, path: tuple[str | int, ...]) -> list[Node]:
        items: list[Node] = []
        while not isinstance(event := self.loader.get_event(), yaml.SequenceEndEvent):
            items.append(self._node(event, (*path, len(items))))
        return items

    def _mapping(self, path: tuple[str | int, ...]) -> dict[str, Node]:
        own: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        while not isinstance(event := self.loader.get_event(), yaml.MappingEndEvent):
            tag = self._tag(event) if isinstance(event, yaml.ScalarEvent) else None
            if tag == _TAG + "merge":
                self._merge_key(event, self._node(self.loader.get_event(), (*path, "<<")), merged, path)
                continue
            key_loc = self._location(event)
            if tag in (_TAG + "str", _TAG + "value"):
                key = event.value
                if event.anchor is not None:
                    self._anchors[event.anchor] = Node(key, key_loc)
                if key in own:
                    first = own[key].key_loc
                    where = f", first in line {first.line}" if first is not None else ""
                    self._wrong(f"Duplicate mapping key '{key}'{where}", event, (*path, key))
            else:
                key = self._odd_key(event, path)
            own[key] = self._node(self.loader.get_event(), (*path, key), key_loc)
        return {**merged, **own} if merged else own

    def _odd_key(self, event: Any, path: tuple[str | int, ...]) -> str:
        """Report a key that is no string, and read past it."""
        message = "YAML mapping keys must be strings"
        if isinstance(event, yaml.ScalarEvent) and event.value:
            message += f": write '{event.value}' in quotes"
        self._wrong(message, event, path)
        self._node(event, path)
        return ""

    def _merge_key(
        self, event: Any, node: Node, merged: dict[str, Node], path: tuple[str | int, ...]
    ) -> None:
        sources = node.value if isinstance(node.value, list) else [node]
        for source in sources:
            if isinstance(source.value, dict):
                for key, child in source.value.items():
                    merged.setdefault(key, child)
            elif source.value is not UNKNOWN:
                self._wrong("'<<' takes a mapping or a list of mappings", event, (*path, "<<"))
