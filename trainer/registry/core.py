"""A registry: a table of names for the classes of one kind."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")
C = TypeVar("C", bound=type)


class Registry(Generic[T]):
    """Maps names to classes that fulfil one protocol.

    Args:
        name: how messages call this registry.
        expected_base: a class, or a protocol of which every method must be present.
    """

    def __init__(self, name: str, expected_base: type[Any] | None = None) -> None:
        self.name = name
        self.expected_base = expected_base
        self._entries: dict[str, type[T]] = {}

    def register(self, key: str | None = None) -> Callable[[C], C]:
        """Return a class decorator that adds the class under `key`, or under its own name."""

        def decorate(cls: C) -> C:
            self.add(key or cls.__name__, cls)
            return cls

        return decorate

    def add(self, key: str, cls: type[Any]) -> None:
        """Add a class.

        Raises:
            KeyError: the key is taken by another class.
            TypeError: the class lacks a method of the expected protocol.
        """
        known = self._entries.get(key)
        if known is not None and not _same_definition(known, cls):
            raise KeyError(f"{self.name} registry already has key '{key}'")
        missing = _missing_methods(cls, self.expected_base)
        if missing:
            base = getattr(self.expected_base, "__name__", "?")
            raise TypeError(
                f"{cls.__module__}.{cls.__qualname__} cannot be registered as {self.name} '{key}': "
                f"it lacks {', '.join(missing)} of {base}"
            )
        self._entries[key] = cls

    def get(self, key: str) -> type[T]:
        """Return the class registered under `key`.

        Raises:
            KeyError: there is none; the text lists what there is.
        """
        if key not in self._entries:
            raise KeyError(f"{self.name} registry has no key '{key}'. Available: {self.keys()}")
        return self._entries[key]

    def has(self, key: str) -> bool:
        """Say whether `key` is registered."""
        return key in self._entries

    def keys(self) -> list[str]:
        """Return the registered names, sorted."""
        return sorted(self._entries)


def _same_definition(a: type[Any], b: type[Any]) -> bool:
    """Say whether two classes are one definition, seen twice because its module was imported again."""
    if a is b:
        return True
    try:
        return a.__qualname__ == b.__qualname__ and inspect.getsourcefile(a) == inspect.getsourcefile(b)
    except (OSError, TypeError):
        return False


def _missing_methods(cls: type[Any], base: type[Any] | None) -> list[str]:
    if base is None or base in cls.__mro__:
        return []
    required = [n for n, v in vars(base).items() if inspect.isfunction(v) and not n.startswith("_")]
    return sorted(n for n in required if not callable(getattr(cls, n, None)))
