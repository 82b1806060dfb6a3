"""Everything that can be wrong with an experiment YAML, said in one form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from model_constructor import ConfigError as YamlError
from model_constructor import ConfigPath, SourceLocation, excerpt


@dataclass(frozen=True)
class ConfigValidationIssue:
    """One mistake: where, what, and what to do.

    Attributes:
        error_path: dotted path in the configuration, `<root>` for all of it; empty where there is none yet.
        error_message: one sentence without its full stop.
        hint: what to do about it.
        location: file, line and column of the value.
        origin: the chain of files whose `defaults` brought the value in, outermost first.
        path: `error_path` as keys and list indices.
        of_key: the key is at fault, not the value; or the key is missing.
    """

    error_path: str
    error_message: str
    hint: str | None = None
    location: SourceLocation | None = None
    origin: tuple[str, ...] = ()
    path: ConfigPath = ()
    of_key: bool = False

    def __str__(self) -> str:
        text = self.error_message
        if self.error_path:
            text = f"{self.error_path}: {text}"
        if self.location is not None:
            text = f"{self.location.format()}: {text}"
        if self.hint:
            text = f"{text}; {self.hint}"
        if self.location is not None and self.location.filled_from:
            text = f"{text} (filled in from {', from '.join(self.location.filled_from)})"
        if len(self.origin) > 1:
            text = f"{text} (reached by {' -> '.join(self.origin)})"
        return text

    def shown(self) -> str:
        """Return the sentence and, below it, the line of the file with the place marked."""
        line = excerpt(self.location) if self.location is not None else ""
        return f"{self}\n{line}" if line else str(self)


def yaml_issues(
    error: YamlError, chains: Mapping[str, tuple[str, ...]] = MappingProxyType({})
) -> list[ConfigValidationIssue]:
    """Return the mistakes that the language of the YAML files found, in the form of all others.

    Args:
        error: what it raised.
        chains: file → the files whose `defaults` lead to it, for mistakes that do not say it.
    """
    return [
        ConfigValidationIssue(
            error_path="",
            error_message=one.message,
            hint=f"did you mean '{one.suggestions[0]}'?" if one.suggestions else None,
            location=one.location,
            origin=tuple(one.include_stack or chains.get(one.location.file if one.location else "", ())),
        )
        for one in error.errors
    ]


class ConfigLoadError(ValueError):
    """A YAML file cannot be read, or its `defaults` cannot be followed; all such mistakes."""

    def __init__(self, issues: Sequence[ConfigValidationIssue]) -> None:
        self.issues = list(issues)
        super().__init__("\n".join(issue.shown() for issue in self.issues))


class ConfigError(ValueError):
    """All mistakes found in one configuration."""

    def __init__(self, issues: Sequence[ConfigValidationIssue]) -> None:
        self.issues = list(dict.fromkeys(issues))  # two components may share the wrong setting
        lines = [f"Config validation failed with {len(self.issues)} error(s):"]
        shown = (issue.shown().replace("\n", "\n  ") for issue in self.issues)
        super().__init__("\n".join([*lines, *(f"  {text}" for text in shown)]))


class ParameterError(ValueError):
    """A plugin cannot use one of the parameters that it was given, or several of them.

    Args:
        param: dotted path below the plugin's `params`, such as `root` or `normalization.action`; empty
            for all of them.
        message: one sentence without its full stop; it names the file and the episode where there is one.
        hint: what to do about it.
        others: further mistakes that are told with this one.
    """

    def __init__(
        self, param: str, message: str, hint: str | None = None, others: Sequence[ParameterError] = ()
    ) -> None:
        text = f"{param}: {message}" + (f"; {hint}" if hint else "")
        super().__init__("\n".join([text, *map(str, others)]))
        self.param = param
        self.message = message
        self.hint = hint
        self.others = tuple(others)

    @property
    def all(self) -> tuple[ParameterError, ...]:
        """This mistake and the others."""
        return (self, *self.others)

    def below(self, param: str) -> ParameterError:
        """Return the same mistakes of parameters that stand below another one."""
        where = f"{param}.{self.param}" if self.param else param
        return ParameterError(where, self.message, self.hint, [other.below(param) for other in self.others])

    @staticmethod
    def together(found: Sequence[ParameterError]) -> ParameterError:
        """Return mistakes, at least one, as one error."""
        first, *others = [
            ParameterError(one.param, one.message, one.hint) for error in found for one in error.all
        ]
        return ParameterError(first.param, first.message, first.hint, others)
