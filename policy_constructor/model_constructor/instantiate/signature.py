"""Compares arguments with a signature before anything is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from model_constructor.errors import ConfigError
from model_constructor.registry.registry import RegistryEntry
from model_constructor.util.suggest import closest

_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class Mismatch:
    """One way in which arguments do not fit.

    Attributes:
        message: what is wrong.
        keyword: the keyword argument that is wrong, `None` when no single one is.
        suggestions: parameters that were perhaps meant.
    """

    message: str
    keyword: str | None = None
    suggestions: tuple[str, ...] = ()


def mismatches(target: Callable[..., Any], positional: int, keywords: Iterable[str]) -> list[Mismatch] | None:
    """Everything that keeps `target` from being called so; `None` when it shows no signature."""
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return None
    given = list(keywords)
    kinds = {parameter.kind for parameter in parameters.values()}
    by_position = [name for name, parameter in parameters.items() if parameter.kind in _POSITIONAL]
    by_keyword = [name for name, parameter in parameters.items() if parameter.kind in _KEYWORD]
    filled = by_position[:positional]
    found: list[Mismatch] = []
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        free = [name for name in by_keyword if name not in given and name not in filled]
        for name in given:
            if name not in by_keyword:
                near = closest(name, free, 5) or closest(name, by_keyword, 5)
                found.append(Mismatch(f"Unknown kwargs: ['{name}']", name, tuple(near)))
    if positional > len(by_position) and inspect.Parameter.VAR_POSITIONAL not in kinds:
        found.append(Mismatch(f"takes at most {len(by_position)} positional arguments, got {positional}"))
    for name in given:
        if name in filled and parameters[name].kind in _KEYWORD:
            found.append(Mismatch(f"argument '{name}' is given by position and by name", name))
    meant = {one.suggestions[0] for one in found if one.suggestions}
    missing = [
        name
        for name, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty
        and parameter.kind in (*_POSITIONAL, inspect.Parameter.KEYWORD_ONLY)
        and name not in filled
        and name not in given
        and name not in meant  # a misspelt name is one mistake
    ]
    if missing:
        found.append(Mismatch(f"Missing required arguments: {missing}"))
    return found


def validate_kwargs(entry: RegistryEntry, positional: int, keywords: Iterable[str]) -> list[Mismatch]:
    """What the entry's signature policy finds wrong with the arguments.

    Raises:
        ConfigError: when the policy is `strict` and the target shows no signature.
    """
    if entry.signature_policy == "runtime_only":
        return []
    found = mismatches(entry.target, positional, keywords)
    if found is None:
        if entry.signature_policy == "strict":
            raise ConfigError(f"'{entry.name}' shows no signature to check arguments against")
        return []
    return found
