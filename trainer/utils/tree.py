"""Walking nested containers: dicts, lists, tuples, named tuples and dataclasses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any


def tree_map(fn: Callable[[Any], Any], tree: Any, *, is_leaf: Callable[[Any], bool] | None = None) -> Any:
    """Return a tree of the same containers with `fn` applied to every leaf.

    Args:
        fn: takes a leaf, returns its replacement.
        tree: the containers.
        is_leaf: stops the descent where it returns True.
    """
    if is_leaf is not None and is_leaf(tree):
        return fn(tree)

    def walk(value: Any) -> Any:
        return tree_map(fn, value, is_leaf=is_leaf)

    if isinstance(tree, dict):
        return type(tree)((key, walk(value)) for key, value in tree.items())
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(walk(value) for value in tree))
    if isinstance(tree, (list, tuple)):
        return type(tree)(walk(value) for value in tree)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        changes = {f.name: walk(getattr(tree, f.name)) for f in dataclasses.fields(tree) if f.init}
        return dataclasses.replace(tree, **changes)
    return fn(tree)
