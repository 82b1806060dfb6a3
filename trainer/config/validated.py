"""What pydantic finds wrong with a mapping, in the sentences of all other mistakes."""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import pydantic
from model_constructor import ConfigPath, closest, format_path

from trainer.config.component import ComponentSpec
from trainer.config.errors import ConfigValidationIssue
from trainer.config.section import KeyMistake, section_in

M = TypeVar("M", bound=pydantic.BaseModel)
_QUOTED = re.compile(r"'([^']*)'")
UNKNOWN_KEY = "unknown key"
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
        found = list(_schema_issues(error, model))
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


def _is_of_union(one: Mapping[str, Any]) -> bool:
    return _path_of(one) != tuple(one["loc"])


def _schema_issues(
    error: pydantic.ValidationError, model: type[pydantic.BaseModel]
) -> typing.Iterator[ConfigValidationIssue]:
    """Yield what pydantic found as mistakes with paths below what was checked.

    Each member of a union has its own complaint. The member that came furthest is the one that was meant;
    of several the first, which is the usual form.

    Args:
        error: what pydantic raised.
        model: what was asked of the mapping.
    """
    everything = error.errors(include_url=False)
    deepest = [_path_of(one) for one in everything if _is_of_union(one)]
    seen: set[ConfigPath] = set()
    unknown = [_path_of(one) for one in everything if one["type"] == "extra_forbidden"]
    meant = {(*p[:-1], *closest(str(p[-1]), keys_at(model, p[:-1]))) for p in unknown}
    for one in everything:
        path = _path_of(one)
        if one["type"] in ("missing", "missing_argument") and path in meant:
            continue  # a misspelt key is one mistake
        further = any(len(p) > len(path) and p[: len(path)] == path for p in deepest)
        if path in seen or (further and (_is_of_union(one) or path in deepest)):
            continue
        seen.add(path)
        yield _schema_issue(one, path, model)


def _schema_issue(
    one: Mapping[str, Any], path: ConfigPath, model: type[pydantic.BaseModel]
) -> ConfigValidationIssue:
    kind, message, hint, of_key = one["type"], one["msg"], None, False
    if kind == "extra_forbidden":
        message, of_key = UNKNOWN_KEY, True
        hint = hint_of_unknown(str(path[-1]), path[:-1], model)
    elif kind in ("missing", "missing_argument"):
        message, of_key = "this key is required", True
    elif kind == "value_error":
        message, cause = message.removeprefix("Value error, "), one.get("ctx", {}).get("error")
        if isinstance(cause, KeyMistake):
            path, hint, of_key = (*path, cause.key), cause.hint, False
    elif kind in ("model_type", "model_attributes_type", "dataclass_type"):
        message, hint = _no_section(one, path, keys_at(model, path))
    elif kind == "dict_type":
        message = f"here stand names, each with its value, not {_shown(one['input'])}"
    else:
        message = message.partition(", unable to parse")[0]
        message = f"{message[0].lower()}{message[1:]}, not {_shown(one['input'])}"
        if kind == "literal_error" and isinstance(one["input"], str):
            near = closest(one["input"], _QUOTED.findall(one["ctx"]["expected"]))
            hint = f"did you mean '{near[0]}'?" if near else None
    return ConfigValidationIssue(format_path(path), message, hint, path=path, of_key=of_key)


def _no_section(one: Mapping[str, Any], path: ConfigPath, keys: Sequence[str]) -> tuple[str, str | None]:
    """Return what is wrong where a section should be, and what to write."""
    value, kind = one["input"], one.get("ctx", {}).get("class_name")
    message = f"here stands a section of keys, not {_shown(value)}"
    if kind != ComponentSpec.__name__ or not isinstance(value, str):
        return message, f"its keys are {', '.join(keys)}" if keys else None
    form = f"type: {value}"
    return message, f"write `- {form}`" if isinstance(path[-1], int) else f"write `{path[-1]}: {{{form}}}`"


def hint_of_unknown(key: str, section: ConfigPath, model: type[pydantic.BaseModel]) -> str | None:
    """Return what an unknown key was probably meant to be: a near name there, or the same name elsewhere."""
    known = keys_at(model, section)
    if not known:
        return None
    near = closest(key, known)
    if near:
        return f"did you mean '{near[0]}'?"
    if known == list(ComponentSpec.model_fields):
        return "what a component takes stands under its `params`"
    elsewhere = [path for path in _key_paths(model) if path[:-1] != section]
    names = closest(key, dict.fromkeys(str(path[-1]) for path in elsewhere))
    places = [format_path(path) for path in elsewhere if path[-1] in names]
    if len(places) == 1:
        return f"it stands at `{places[0]}`" if names[0] == key else f"did you mean `{places[0]}`?"
    return f"known here: {', '.join(known)}"


def _key_paths(model: type[pydantic.BaseModel]) -> typing.Iterator[ConfigPath]:
    """Yield the path of every key of a schema that stands in no list and under no free name."""
    for name, field in model.model_fields.items():
        yield (name,)
        section = section_in(field.annotation, containers=False)
        if section is not None and section is not ComponentSpec:
            yield from ((name, *path) for path in _key_paths(section))


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
