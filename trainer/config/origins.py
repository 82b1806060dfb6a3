"""Where every value of a resolved configuration came from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from model_constructor import ConfigPath, SourceLocation, dump_yaml, format_path

from trainer.config.loader import LocatedConfig

_COMMENT_COLUMN = 56


@dataclass(frozen=True)
class Origin:
    """Where a value came from; no location means that it is a default.

    Attributes:
        location: place in a file, or the `--set` that gave it.
        chain: the files whose `defaults` lead there, outermost first.
    """

    location: SourceLocation | None = None
    chain: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.location is None:
            return "default"
        filled = f", from {', from '.join(self.location.filled_from)}" if self.location.filled_from else ""
        return f"{self.location.format()}{filled}"

    def as_json(self) -> dict[str, Any]:
        """Return the same for programs."""
        if self.location is None:
            return {"from": "default"}
        if not self.location.line:
            return {"from": "command line", "override": self.location.file.removeprefix("--set ")}
        at = {"file": self.location.file, "line": self.location.line, "column": self.location.col}
        more = {"filled_from": self.location.filled_from, "reached_by": self.chain[:-1]}
        return {"from": "file", **at, **{key: list(value) for key, value in more.items() if value}}


def origin_of(located: LocatedConfig, path: ConfigPath) -> Origin:
    """Return where the value at a path came from."""
    location = located.source_map.get(path)
    return Origin(location, located.chain(location))


def origins(located: LocatedConfig, resolved: Any, path: ConfigPath = ()) -> Iterator[tuple[ConfigPath, Any]]:
    """Yield path and value of everything in a resolved configuration that holds nothing further."""
    children = _children(resolved)
    if not children:
        yield path, resolved
    for key, child in children:
        yield from origins(located, child, (*path, key))


def as_yaml(located: LocatedConfig, resolved: Mapping[str, Any], with_defaults: bool = True) -> str:
    """Return a resolved configuration as YAML, behind each value a comment that says where it came from."""
    lines = list(_lines(located, resolved, (), with_defaults))
    chains = sorted({chain for chain in located.chains.values() if len(chain) > 1})
    head = [f"# {chain[-1]} is reached by {' -> '.join(chain[:-1])}" for chain in chains]
    return "\n".join([*head, *(_with_comment(text, comment) for text, comment in lines)]) + "\n"


def as_json(located: LocatedConfig, resolved: Mapping[str, Any], with_defaults: bool = True) -> str:
    """Return a resolved configuration as JSON, and the origin of each value by its path."""
    places = {path: origin_of(located, path) for path, _ in origins(located, resolved)}
    kept = {path: one for path, one in places.items() if with_defaults or one.location is not None}
    found = {format_path(path): one.as_json() for path, one in kept.items()}
    return json.dumps({"config": resolved, "origins": found}, indent=2, ensure_ascii=False)


def _lines(
    located: LocatedConfig, value: Any, path: ConfigPath, with_defaults: bool, first: str = ""
) -> Iterator[tuple[str, str]]:
    """Yield the lines of a value that holds others, each with its comment.

    Args:
        located: knows the places.
        value: a mapping or a list that is not empty.
        path: of the value.
        with_defaults: whether what no file and no override gives is shown.
        first: what stands before the first line in place of its indentation, `- ` of a list.
    """
    depth = len(path)
    for key, child in _children(value):
        here = (*path, key)
        if not with_defaults and located.source_map.get(here) is None:
            continue
        indent = first or "  " * depth
        first = ""
        inner = _children(child)
        name = "-" if isinstance(key, int) else f"{_scalar(key)}:"
        if not inner:
            yield f"{indent}{name} {_scalar(child)}", str(origin_of(located, here))
        elif isinstance(key, int):
            yield from _lines(located, child, here, with_defaults, f"{indent}- ")
        else:
            yield f"{indent}{name}", ""
            yield from _lines(located, child, here, with_defaults)


def _children(value: Any) -> list[tuple[str | int, Any]]:
    if isinstance(value, dict):
        return list(value.items())
    return list(enumerate(value)) if isinstance(value, list | tuple) else []


def _scalar(value: Any) -> str:
    """Return a value as YAML in one line."""
    text = dump_yaml([value]).removeprefix("- ").removesuffix("\n")
    return text if "\n" not in text else json.dumps(value, ensure_ascii=False)


def _with_comment(text: str, comment: str) -> str:
    return f"{text:<{_COMMENT_COLUMN}}  # {comment}" if comment else text
