"""What every section of the configuration is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A mapping in which an unknown key is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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
