"""A model as checked data: what is built, and what is called in which order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from model_constructor.config.source_map import ConfigPath, SourceLocation

CallKind: TypeAlias = Literal["module", "op"]


@dataclass(frozen=True)
class Ref:
    """Stands in a step's arguments for the value of that name."""

    name: str


@dataclass(frozen=True)
class ModuleIR:
    """A module to build: its spec, and where the spec stands."""

    spec: dict[str, Any]
    origin_path: ConfigPath
    location: SourceLocation | None = None


@dataclass(frozen=True)
class StepIR:
    """One call.

    Attributes:
        call_kind: whether a module or an operation is called.
        call_name: its name.
        args: positional arguments, with `Ref`s in place of values.
        kwargs: keyword arguments, likewise.
        out: the value's name; a list of names for a tuple result; result key → name for a dict result.
        origin_path: where the step stands in the configuration.
        location: the same in the file.
    """

    call_kind: CallKind
    call_name: str
    args: list[Any]
    kwargs: dict[str, Any]
    out: str | list[str] | dict[str, str]
    origin_path: ConfigPath
    location: SourceLocation | None = None

    @property
    def produced(self) -> list[str]:
        """Names of the values that the step makes."""
        if isinstance(self.out, str):
            return [self.out]
        return list(self.out.values()) if isinstance(self.out, dict) else list(self.out)


@dataclass(frozen=True)
class GraphIR:
    """A whole model, checked, with nothing built.

    Attributes:
        inputs: names of the arguments of `forward`, in order.
        modules: what is built, in order.
        steps: what is called, in order.
        outputs: names of the results, or result key → name.
        return_policy: whether `forward` returns one value, a tuple or a dict.
        ops: the functions behind the operations that are used.
    """

    inputs: list[str]
    modules: dict[str, ModuleIR]
    steps: list[StepIR]
    outputs: list[str] | dict[str, str]
    return_policy: Literal["single", "tuple", "dict"]
    ops: dict[str, Callable[..., Any]] = field(default_factory=dict)
