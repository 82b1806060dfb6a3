"""What every section of the configuration is."""

from __future__ import annotations

import typing

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A mapping in which an unknown key is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def section_in(annotation: object, *, containers: bool = True) -> type[BaseModel] | None:
    """Return the section that an annotation holds, also inside `… | None`.

    Args:
        annotation: of a key.
        containers: also inside `dict[str, …]` and `list[…]`, whose items have names or places of their own.
    """
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if not containers and typing.get_origin(annotation) in (dict, list):
        return None
    found = (section_in(a, containers=containers) for a in typing.get_args(annotation))
    return next((s for s in found if s is not None), None)


class KeyMistake(ValueError):
    """A section's validator found the mistake in one of its keys, or misses one.

    Args:
        key: the key.
        message: one sentence without its full stop.
        hint: what to do about it.
    """

    def __init__(self, key: str, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.key = key
        self.hint = hint
