"""Checking a raw configuration against schema and signatures; every mistake is kept, with its place."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import pydantic
from model_constructor.util.suggest import closest

from trainer.config.errors import ConfigError, ConfigValidationIssue
from trainer.config.loader import ConfigPath, LocatedConfig
from trainer.config.schemas import ExperimentConfig

_ELSEWHERE = {
    "model.config_path": "components stand under model.component_config_paths",
    "train.amp": "use `precision: bf16` or `precision: fp16` at the top level",
    "train.batch_size": "it stands under data.batch_size",
    "train.max_epochs": "use train.epoch",
    "train.model_input": "components are called with named inputs; their graphs say which",
    "train.scheduler": "schedules live in the optimizers, such as adamw_warmup_cosine_decay",
    "train.precision": "it stands at the top level",
    "train.device": "it stands at the top level",
    "train.checkpoint.save_dir": "use train.save_dir",
    "train.checkpoint.save_every_n_epochs": "use train.save_every",
}
"""Keys that users know from elsewhere, and what to write."""


def validate_config(raw: dict[str, Any]) -> ExperimentConfig:
    """Turn a raw mapping into an `ExperimentConfig`.

    Raises:
        ConfigError: all mistakes; without positions, since a mapping has none.
    """
    issues = Issues(LocatedConfig(raw, source_map=_NoPositions()))  # type: ignore[arg-type]
    config = validate_schema(issues)
    issues.raise_if_any()
    assert config is not None
    return config


class Issues:
    """Collects mistakes and knows where each value stands."""

    def __init__(self, located: LocatedConfig) -> None:
        self.located = located
        self.found: list[ConfigValidationIssue] = []

    def add(self, path: ConfigPath, message: str, hint: str | None = None) -> None:
        """Note one mistake at a config path."""
        location = self.located.locate(path)
        self.found.append(
            ConfigValidationIssue(dotted(path), message, hint, location, self.located.chain(location))
        )

    def touches(self, path: ConfigPath) -> bool:
        """Say whether a mistake was noted at `path`, below it, or at something that holds it."""
        name = dotted(path)
        return any(
            i.error_path == name or i.error_path.startswith((f"{name}.", f"{name}[")) for i in self.found
        )

    def raise_if_any(self) -> None:
        """Raise `ConfigError` with everything found, in the order of the files."""
        if self.found:
            raise ConfigError(sorted(self.found, key=_place))


def _place(issue: ConfigValidationIssue) -> tuple[str, int, int]:
    at = issue.location
    return (at.file, at.line, at.col) if at else ("", 0, 0)


def dotted(path: ConfigPath) -> str:
    """Return `a.b[0]` for a config path, `<root>` for the empty one."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else str(key)
    return text or "<root>"


def validate_schema(issues: Issues) -> ExperimentConfig | None:
    """Check the whole configuration against the schema; None when something was found."""
    raw = issues.located.data
    try:
        config = ExperimentConfig.model_validate(raw)
    except pydantic.ValidationError as error:
        _note_schema_errors(issues, error, (), lambda path: _keys_at(ExperimentConfig, path))
        return None
    _check_component_names(issues, config)
    return config


def validate_parameters(
    issues: Issues,
    path: ConfigPath,
    params: Mapping[str, Any],
    target: Callable[..., Any],
    reserved: Collection[str] = (),
) -> dict[str, Any] | None:
    """Check parameters against the signature of what will receive them.

    Args:
        issues: takes the mistakes.
        path: config path of `params`.
        params: what the YAML gives.
        target: a class or function; its annotations give the types (text such as `1e-4` becomes a number
            where a number is asked for).
        reserved: arguments that the framework passes itself.

    Returns:
        The converted parameters that were given, or None when something is wrong.
    """
    model, open_ended = _signature_model(target, frozenset(reserved))
    try:
        checked = model.model_validate(dict(params))
    except pydantic.ValidationError as error:
        names = list(model.model_fields)
        _note_schema_errors(issues, error, path, lambda below: names if not below else [])
        return None
    given = {name: getattr(checked, name) for name in params if name in model.model_fields}
    if open_ended:
        given.update({name: value for name, value in params.items() if name not in given})
    return given


def _signature_model(
    target: Callable[..., Any], reserved: frozenset[str]
) -> tuple[type[pydantic.BaseModel], bool]:
    """Return a model whose fields are the arguments of `target`, and whether it takes any others too."""
    init = target.__init__ if inspect.isclass(target) else target
    try:
        hints = typing.get_type_hints(init)
    except Exception:  # an annotation that only a type checker can resolve: names are checked, types are not
        hints = {}
    fields: dict[str, Any] = {}
    open_ended = False
    for name, parameter in inspect.signature(target).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            open_ended = True
        elif parameter.kind is not parameter.VAR_POSITIONAL and name not in reserved:
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[name] = (hints.get(name, Any), default)
    extra: typing.Literal["allow", "forbid"] = "allow" if open_ended else "forbid"
    config = pydantic.ConfigDict(extra=extra, arbitrary_types_allowed=True, protected_namespaces=())
    return pydantic.create_model("parameters", __config__=config, **fields), open_ended


def _note_schema_errors(
    issues: Issues,
    error: pydantic.ValidationError,
    prefix: ConfigPath,
    names_at: Callable[[ConfigPath], Sequence[str]],
) -> None:
    for one in error.errors(include_url=False):
        below = tuple(k for k in one["loc"] if not _is_union_label(k))
        path = (*prefix, *below)
        kind = one["type"]
        if kind == "extra_forbidden":
            issues.add(path, "unknown key", _ELSEWHERE.get(dotted(path)) or _near(path, names_at(below[:-1])))
        elif kind in ("missing", "missing_argument"):
            issues.add(path, "this key is required")
        elif kind == "value_error":
            issues.add(path, one["msg"].removeprefix("Value error, "))
        else:
            message = one["msg"][0].lower() + one["msg"][1:]
            issues.add(path, f"{message}, not {_shown(one['input'])}")


def _near(path: ConfigPath, names: Sequence[str]) -> str | None:
    near = closest(str(path[-1]), names)
    return f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(names)}" if names else None


def _is_union_label(key: str | int) -> bool:
    """Say whether pydantic put the key there to name the member of a union that it tried."""
    return isinstance(key, str) and (key.startswith(("dict[", "list[", "literal[", "tuple[", "constrained-")))


def _keys_at(model: type[pydantic.BaseModel], path: ConfigPath) -> list[str]:
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


def _check_component_names(issues: Issues, config: ExperimentConfig) -> None:
    """Names under `component_build_args` and `component_optims` are names of components."""
    names = list(config.model.component_config_paths)
    for section in ("component_build_args", "component_optims"):
        for name in getattr(config.model, section):
            if name not in names:
                near = closest(name, names)
                hint = f"did you mean '{near[0]}'?" if near else f"components are {', '.join(names)}"
                issues.add(("model", section, name), "there is no component of this name", hint)
    frozen = [n for n, a in config.model.component_build_args.items() if a.freeze]
    for name in frozen:
        if name in config.model.component_optims:
            issues.add(
                ("model", "component_optims", name),
                "this component is frozen, so its optimizer would have no effect",
                "remove one of the two",
            )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


class _NoPositions:
    def get(self, path: ConfigPath) -> None:
        """Know no position."""
        return None
