"""Where in which file each value of a configuration stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

ConfigPath: TypeAlias = tuple[str | int, ...]


def format_path(path: ConfigPath) -> str:
    """`("a", "b", 0)` as `a.b[0]`; the empty path as `<root>`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text or "<root>"


@dataclass(frozen=True, order=True)
class SourceLocation:
    """A position in a file; line and column count from 1.

    Attributes:
        file: the file; or whatever else a value came from, such as an argument of a command.
        line: 0 for what is no file and has no lines.
        col: 0 likewise.
        filled_from: what filled in the `${…}` that stands there, such as `environment variable LR`.
    """

    file: str
    line: int
    col: int
    filled_from: tuple[str, ...] = field(default=(), compare=False)

    def format(self) -> str:
        """`file:line:col`, as editors and terminals understand it."""
        return f"{self.file}:{self.line}:{self.col}" if self.line else self.file


class SourceMap:
    """Positions of values and of the keys that they hang under, by path.

    Args:
        values: path → position of the value.
        keys: path → position of the mapping key with which the path ends.
    """

    def __init__(
        self,
        values: Mapping[ConfigPath, SourceLocation] | None = None,
        keys: Mapping[ConfigPath, SourceLocation] | None = None,
    ) -> None:
        self._values = dict(values or {})
        self._keys = dict(keys or {})

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SourceMap):
            return NotImplemented
        return self._values == other._values and self._keys == other._keys

    __hash__ = None  # type: ignore[assignment]

    def get(self, path: ConfigPath) -> SourceLocation | None:
        """Position of the value at `path`, `None` when unknown."""
        return self._values.get(tuple(path))

    def get_key(self, path: ConfigPath) -> SourceLocation | None:
        """Position of the key that `path` ends with; else of the value, or of what encloses it."""
        path = tuple(path)
        return self._keys.get(path) or self.nearest(path)

    def key_or_section(self, path: ConfigPath) -> SourceLocation | None:
        """Position of the key that `path` ends with; else of the key of the innermost section around it."""
        path = tuple(path)
        for length in range(len(path), -1, -1):
            location = self._keys.get(path[:length]) or self._values.get(path[:length])
            if location is not None:
                return location
        return None

    def nearest(self, path: ConfigPath) -> SourceLocation | None:
        """Position of the value, or of the innermost enclosing one that has a position."""
        path = tuple(path)
        for length in range(len(path), -1, -1):
            location = self._values.get(path[:length])
            if location is not None:
                return location
        return None

    def items(self) -> Iterator[tuple[ConfigPath, SourceLocation]]:
        """All paths with the positions of their values."""
        return iter(self._values.items())

    def submap(self, prefix: ConfigPath) -> SourceMap:
        """What lies at and below `prefix`, with paths counted from there."""
        return self._rewritten(lambda path: path[len(prefix) :] if path[: len(prefix)] == prefix else None)

    def without_prefix(self, prefix: ConfigPath) -> SourceMap:
        """All but what lies at and below `prefix`."""
        return self._rewritten(lambda path: None if path[: len(prefix)] == prefix else path)

    def remap_prefix(self, old: ConfigPath, new: ConfigPath) -> SourceMap:
        """The same map with `old` at the start of a path replaced by `new`."""
        return self._rewritten(lambda path: new + path[len(old) :] if path[: len(old)] == old else path)

    def to_dict(self) -> dict[str, str]:
        """`a.b[0]` → `file:line:col`, for people and for JSON."""
        return {format_path(path): location.format() for path, location in self._values.items()}

    def _rewritten(self, rewrite: Callable[[ConfigPath], ConfigPath | None]) -> SourceMap:
        def table(old: dict[ConfigPath, SourceLocation]) -> dict[ConfigPath, SourceLocation]:
            moved = ((rewrite(path), location) for path, location in old.items())
            return {path: location for path, location in moved if path is not None}

        return SourceMap(table(self._values), table(self._keys))
