"""What can go wrong while a model is described, built or called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from model_constructor.config.source_map import ConfigPath, SourceLocation, format_path


class ModelConstructorError(Exception):
    """Base of every error that this package raises on purpose."""


class CompatibilityError(ModelConstructorError):
    """The installed torch is too old."""


class ConfigError(ModelConstructorError):
    """One mistake in a model configuration.

    Attributes:
        message: what is wrong, one clause without a full stop.
        config_path: keys and list indices from the root to the value, `None` when no value is meant.
        location: file, line and column, where the configuration came from a file.
        include_stack: the files whose `defaults` led here, outermost first.
        suggestions: names that were perhaps meant, best first.
        errors: every mistake found together with this one, itself included.
    """

    def __init__(
        self,
        message: str,
        *,
        config_path: ConfigPath | None = None,
        location: SourceLocation | None = None,
        include_stack: Sequence[str] | None = None,
        suggestions: Sequence[str] | None = None,
    ) -> None:
        self.message = message
        self.config_path = config_path
        self.location = location
        self.include_stack = list(include_stack or [])
        self.suggestions = list(suggestions or [])
        parts = [message]
        if config_path is not None:
            parts.append(f"path={format_path(config_path)}")
        if location is not None:
            parts.append(f"loc={location.format()}")
        if self.include_stack:
            parts.append(f"includes={' -> '.join(self.include_stack)}")
        if self.suggestions:
            parts.append(f"suggestions={', '.join(self.suggestions)}")
        super().__init__(" | ".join(parts))

    @property
    def errors(self) -> list[ConfigError]:
        """Every mistake found in one go; for a single one, just itself."""
        return [self]


class ConfigErrors(ConfigError):
    """Several independent mistakes; the attributes of `ConfigError` are those of the first."""

    def __init__(self, errors: Sequence[ConfigError]) -> None:
        assert len(errors) > 1, "one mistake is raised as itself"
        self._errors = list(errors)
        first = self._errors[0]
        super().__init__(
            first.message,
            config_path=first.config_path,
            location=first.location,
            include_stack=first.include_stack,
            suggestions=first.suggestions,
        )
        self.args = ("\n".join([f"{len(errors)} mistakes:", *(f"  {error}" for error in errors)]),)

    @property
    def errors(self) -> list[ConfigError]:
        """All mistakes, in the order in which they were found."""
        return list(self._errors)

    def __reduce__(self) -> tuple[Any, ...]:
        return (ConfigErrors, (self._errors,))


class GraphExecutionError(ModelConstructorError, RuntimeError):
    """A step's result does not have the form that the configuration promised."""


class GraphInputError(GraphExecutionError, TypeError):
    """A model was called with inputs that do not fit those it declares."""


def add_note(error: BaseException, note: str) -> None:
    """Attach a line that tracebacks show below the message.

    Python 3.10 has no `add_note`; there the line goes to the same attribute, `__notes__`, which pytest and
    the `exceptiongroup` package print and the plain interpreter does not.
    """
    if hasattr(error, "add_note"):
        error.add_note(note)
    else:
        error.__notes__ = [*getattr(error, "__notes__", []), note]
