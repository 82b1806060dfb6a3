"""Collects mistakes, so that a user hears of all of them at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from model_constructor.config.source_map import ConfigPath, SourceLocation
from model_constructor.errors import ConfigError, ConfigErrors, add_note
from model_constructor.util.excerpt import excerpt


class Problems:
    """The mistakes found so far.

    The same mistake reached on two ways (a template used twice) counts once.

    Attributes:
        chains: file → the files whose `defaults` lead to it, itself last, where there are any above it.
    """

    def __init__(self) -> None:
        self.chains: dict[str, tuple[str, ...]] = {}
        self._errors: dict[tuple[object, ...], ConfigError] = {}

    def __len__(self) -> int:
        return len(self._errors)

    def add(
        self,
        message: str,
        path: ConfigPath,
        location: SourceLocation | None = None,
        suggestions: Sequence[str] = (),
    ) -> None:
        """Note one mistake."""
        self.take(ConfigError(message, config_path=path, location=location, suggestions=suggestions))

    def take(self, error: ConfigError) -> None:
        """Note an error that something else raised, with all the mistakes that it holds."""
        for one in error.errors:
            self._errors.setdefault((one.message, one.location or one.config_path), one)

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Take a `ConfigError` of the block below and go on after it."""
        try:
            yield
        except ConfigError as error:
            self.take(error)

    def all(self) -> list[ConfigError]:
        """What was found, in that order."""
        return list(self._errors.values())

    def raise_all(self, context_lines: int = 0) -> None:
        """Raise what was found, if anything: one `ConfigError`, or a `ConfigErrors` of several.

        `context_lines` lines of the file around each mistake are attached as notes.
        """
        if not self._errors:
            return
        errors = [self._reached(error) for error in self._errors.values()]
        raised = errors[0] if len(errors) == 1 else ConfigErrors(errors)
        for error in errors:
            if context_lines and error.location is not None:
                lines = excerpt(error.location, context_lines)
                if lines:
                    add_note(raised, f"{error.location.format()}\n{lines}")
        raise raised

    def _reached(self, error: ConfigError) -> ConfigError:
        """The error with the chain of files that lead to its place, if it does not say it."""
        chain = self.chains.get(error.location.file) if error.location is not None else None
        if chain is None or error.include_stack:
            return error
        return ConfigError(
            error.message,
            config_path=error.config_path,
            location=error.location,
            include_stack=chain,
            suggestions=error.suggestions,
        )
