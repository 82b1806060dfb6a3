"""What every section of the configuration is."""

from __future__ import annotations

import typing

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A mapping in which an unknown key is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def section_in(annotation: object) -> type[BaseModel] | None:
    """Return the section that an annotation holds, also inside `… | None` and `dict[str, …]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (section_in(a) for a in typing.get_args(annotation))
    return next((s for s in found if s is not None), None)


def section_at(annotation: object) -> type[BaseModel] | None:
    """Return the section whose keys stand right below a key of this annotation, in no list or mapping."""
    return None if typing.get_origin(annotation) in (dict, list) else section_in(annotation)


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
