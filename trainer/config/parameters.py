"""The parameters of plugins: checked against what receives them, and converted, once for everyone."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import pydantic
from model_constructor import ConfigPath, did_you_mean, format_path

from trainer.config.errors import ConfigValidationIssue, ParameterError
from trainer.config.paths import path_mistake


def _usable_path(value: str) -> str:
    wrong = path_mistake(value)
    if wrong is not None:
        raise ValueError(wrong)
    return value


T = TypeVar("T")
M = TypeVar("M", bound=pydantic.BaseModel)
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
    model, open_ended = _signatures(targets if isinstance(targets, Sequence) else (targets,), reserved)
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


def _signatures(
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


_PLAIN_TYPES = ("int", "float", "str", "bool")
"""How pydantic ends a path where a union has such a member."""


def validated(model: type[M], raw: Mapping[str, Any]) -> tuple[M | None, list[ConfigValidationIssue]]:
    """Check a raw mapping against a model; true and false are no numbers, as which pydantic would take them.

    Returns:
        The model, or None when something is wrong; and what is wrong, at paths below the mapping.
    """
    checked, found = None, []
    try:
        checked = model.model_validate(raw)
    except pydantic.ValidationError as error:
        found = list(_schema_issues(error, lambda path: keys_at(model, path)))
    told = {one.path for one in found}
    found += [
        ConfigValidationIssue(format_path(path), f"input should be a number, not {flag}", path=path)
        for path, flag in _flags_for_numbers(model, raw).items()
        if path not in told
    ]
    return (None if found else checked), found


class _Flag:
    """Stands for true or false where a model is asked what it would take: only `Any` takes this."""

    def __init__(self, value: bool) -> None:
        self.value = value


def _flags_for_numbers(model: type[pydantic.BaseModel], raw: Any) -> dict[ConfigPath, bool]:
    """Return the places that hold true or false and want a number."""
    marked = _marked(raw)
    if marked is raw:
        return {}
    try:
        model.model_validate(marked)
    except pydantic.ValidationError as error:
        wanted: dict[ConfigPath, set[str]] = {}
        flags: dict[ConfigPath, bool] = {}
        for one in error.errors(include_url=False):
            if isinstance(one["input"], _Flag):
                path = _path_of(one)
                wanted.setdefault(path, set()).add(one["type"])
                flags[path] = one["input"].value
        return {
            path: flags[path]
            for path, kinds in wanted.items()
            if kinds & {"int_type", "float_type"} and "bool_type" not in kinds
        }
    return {}


def _marked(raw: Any) -> Any:
    """Return raw data with a `_Flag` for every true and false; itself where there is none."""
    if isinstance(raw, bool):
        return _Flag(raw)
    if isinstance(raw, dict):
        items = {key: _marked(value) for key, value in raw.items()}
        return items if any(items[key] is not value for key, value in raw.items()) else raw
    if isinstance(raw, list):
        values = [_marked(value) for value in raw]
        return values if any(a is not b for a, b in zip(values, raw, strict=True)) else raw
    return raw


def _path_of(one: Mapping[str, Any]) -> ConfigPath:
    """Return where something is that pydantic found, without what it adds for the members of a union."""
    path = tuple(k for k in one["loc"] if not _is_union_label(k))
    plain = path[-1:] and path[-1] in _PLAIN_TYPES and one["type"] not in ("extra_forbidden", "missing")
    return path[:-1] if plain else path


def _schema_issues(
    error: pydantic.ValidationError, names_at: Callable[[ConfigPath], Sequence[str]]
) -> typing.Iterator[ConfigValidationIssue]:
    """Yield what pydantic found as mistakes with paths below what was checked.

    Args:
        error: what pydantic raised.
        names_at: path of a mapping → the keys that are known there.
    """
    seen: set[ConfigPath] = set()
    for one in error.errors(include_url=False):
        path = _path_of(one)
        kind, message, hint = one["type"], one["msg"], None
        if kind != "value_error" and any(known[: len(path)] == path for known in seen):
            continue  # each member of a union has its own complaint; the first is that of its usual form
        seen.add(path)
        if kind == "extra_forbidden":
            message, known = "unknown key", names_at(path[:-1])
            hint = did_you_mean(str(path[-1]), known, "known here:") if known else None
        elif kind in ("missing", "missing_argument"):
            message = "this key is required"
        elif kind == "value_error":
            message = message.removeprefix("Value error, ")
        else:
            message = f"{message[0].lower()}{message[1:]}, not {_shown(one['input'])}"
        yield ConfigValidationIssue(format_path(path), message, hint, path=path)


def keys_at(model: type[pydantic.BaseModel], path: ConfigPath) -> list[str]:
    """Return the keys that the schema knows at a config path."""
    kind: Any = model
    for key in path:
        if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel):
            field = kind.model_fields.get(str(key))
            kind = field.annotation if field else None
        else:
            arguments = typing.get_args(kind)
            kind = arguments[-1] if arguments else None
        members = [a for a in typing.get_args(kind) if a is not type(None)]
        if type(None) in typing.get_args(kind) and members:
            kind = members[0]
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel) else []


def _is_union_label(key: str | int) -> bool:
    """Say whether pydantic put the key there to name the member of a union that it tried."""
    return isinstance(key, str) and (key.startswith(("dict[", "list[", "literal[", "tuple[", "constrained-")))


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python prints no numbers of more than 4,300 digits
        text = f"a number of type {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}…"
