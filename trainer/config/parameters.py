"""The parameters of plugins: checked against what receives them, and converted, once for everyone."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import pydantic

from trainer.config.errors import ConfigValidationIssue, ParameterError
from trainer.config.paths import path_mistake
from trainer.config.validated import validated


def _usable_path(value: str) -> str:
    wrong = path_mistake(value)
    if wrong is not None:
        raise ValueError(wrong)
    return value


T = TypeVar("T")
Target: TypeAlias = Callable[..., Any]
Text = Annotated[str, pydantic.Field(min_length=1)]
Positive = Annotated[int, pydantic.Field(gt=0)]
Frames = Annotated[int, pydantic.Field(gt=0, le=1_000_000)]
FrameOffset = Annotated[int, pydantic.Field(ge=-1_000_000, le=1_000_000)]
"""Lengths and places of windows: no episode is longer, and offsets of so many frames still fit in memory."""
PositiveNumber = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
PathText = Annotated[Text, pydantic.AfterValidator(_usable_path)]
"""The name of a file or folder that a file system would take."""
FRAMEWORK_ARGUMENTS = frozenset(
    {"models", "components", "optimizers", "loss", "device", "policy", "update", "opt_params", "params"}
    | {"action_range"}
)
"""What the framework passes itself to trainers, policies, losses, optimizers, dataset factories, experts."""


def receivers(plugin: Any) -> tuple[Target, ...]:
    """Return what receives the parameters of a registered class.

    It is the class itself, unless its attribute `parameters` names a class or function, or a tuple of them,
    each of which takes those that its signature names.
    """
    declared = getattr(plugin, "parameters", None)
    if declared is None:
        return (plugin,)
    return tuple(declared) if isinstance(declared, tuple) else (declared,)


def convert_parameters(
    params: Mapping[str, Any], targets: Target | Sequence[Target], reserved: Collection[str] = ()
) -> tuple[dict[str, Any] | None, list[ConfigValidationIssue]]:
    """Check parameters against the signatures of what will receive them.

    Args:
        params: what the YAML gives.
        targets: classes or functions; their annotations give the types (text such as `"2"` becomes a number
            where a number is asked for). Of several, every parameter is one of at least one of them.
        reserved: arguments that the framework passes itself.

    Returns:
        The converted parameters that were given, or None when something is wrong; and what is wrong, at
        paths below the parameters.
    """
    model, open_ended = parameter_model(targets if isinstance(targets, Sequence) else (targets,), reserved)
    checked, found = validated(model, dict(params))
    if checked is None:
        return None, found
    given = {name: getattr(checked, name) for name in params if name in model.model_fields}
    if open_ended:
        given.update({name: value for name, value in params.items() if name not in given})
    return given, []


def checked_parameters(
    params: Mapping[str, Any], targets: Target | Sequence[Target], reserved: Collection[str] = ()
) -> dict[str, Any]:
    """Return converted parameters; see `convert_parameters`.

    Raises:
        ParameterError: parameters that are unknown, missing or cannot be used, all of them.
    """
    converted, found = convert_parameters(params, targets, reserved)
    if converted is None:
        raise ParameterError.together(
            [ParameterError(".".join(map(str, one.path)), one.error_message, one.hint) for one in found]
        )
    return converted


def parse_parameters(kind: Callable[..., T], params: Mapping[str, Any]) -> T:
    """Return a parameter class filled with what was given, for whoever calls a factory without the engine.

    Raises:
        ParameterError: parameters that are unknown, missing or cannot be used, all of them.
    """
    return kind(**checked_parameters(params, kind))


def own_parameters(target: Target, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the parameters that one target takes, where several share them."""
    accepted = inspect.signature(target).parameters
    if any(one.kind is one.VAR_KEYWORD for one in accepted.values()):
        return dict(params)
    return {name: value for name, value in params.items() if name in accepted}


def parameter_model(
    targets: Sequence[Target], reserved: Collection[str]
) -> tuple[type[pydantic.BaseModel], bool]:
    """Return a model whose fields are the arguments of all targets, and whether one takes any others too."""
    fields: dict[str, Any] = {}
    open_ended = False
    for target in targets:
        init = target.__init__ if inspect.isclass(target) else target
        try:
            hints = typing.get_type_hints(init, include_extras=True)
        except Exception:  # an annotation for type checkers alone: names are checked, types are not
            hints = {}
        for name, parameter in inspect.signature(target).parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                open_ended = True
            elif parameter.kind is not parameter.VAR_POSITIONAL and name not in reserved:
                default = ... if parameter.default is parameter.empty else parameter.default
                fields.setdefault(name, (hints.get(name, Any), default))
    extra: Literal["allow", "forbid"] = "allow" if open_ended else "forbid"
    config = pydantic.ConfigDict(extra=extra, arbitrary_types_allowed=True, protected_namespaces=())
    return pydantic.create_model("parameters", __config__=config, **fields), open_ended
