"""Picking a value out of nested containers by its path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def select(obj: Any, key: str | Sequence[str | int], default: Any = None) -> Any:
    """Return what stands at a path of mappings, lists and attributes, or `default` where nothing does.

    Args:
        obj: the containers.
        key: a dotted text such as `train.loggers.0.type`, or the keys one by one.
        default: for a path that leads nowhere.
    """
    for one in key.split(".") if isinstance(key, str) else key:
        if isinstance(obj, Mapping):
            if one not in obj:
                return default
            obj = obj[one]
        elif isinstance(obj, (list, tuple)):
            if not str(one).isdigit() or int(one) >= len(obj):
                return default
            obj = obj[int(one)]
        elif isinstance(one, str) and not one.startswith("_") and hasattr(obj, one):
            obj = getattr(obj, one)
        else:
            return default
    return obj
