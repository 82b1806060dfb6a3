"""The JSON schema of the experiment YAML for editors, with the parameters of everything registered."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any

import pydantic

from trainer.config.component import ComponentSpec
from trainer.config.parameters import parameter_model, receivers
from trainer.config.schemas import ExperimentConfig
from trainer.engine.registered import REQUIRED, describe, registries, reserved_by

KINDS = {
    "datamodule": "dataset_builder",
    "trainer": "trainer",
    "loss": "loss_builder",
    "optimizer": "optimizer_builder",
    "component_optims": "optimizer_builder",
    "callbacks": "callback",
    "loggers": "logger",
    "metrics": "metric",
    "expert": "expert",
}
"""Key of the configuration → registry of what stands under it."""
_FILLED_IN = {"type": "string", "pattern": r"\$\{", "description": "filled in from ${path} or ${env:NAME}"}
_MERGED = {
    "type": "object",
    "description": "how this lies over the file below",
    "required": ["_merge_", "_value_"],
    "properties": {
        "_merge_": {"enum": ["replace", "append", "prepend", "keyed"]},
        "_value_": {},
        "key": {"type": "string"},
    },
}
_DEFAULTS = {
    "description": "files that this one builds on: `- base.yaml` or `- label: base.yaml`",
    "type": "array",
    "items": {
        "anyOf": [
            {"type": "string"},
            {"type": "object", "minProperties": 1, "maxProperties": 1},
        ]
    },
}
_OTHERS = [{"$ref": "#/$defs/filled_in"}, {"$ref": "#/$defs/merged"}]
Schema = dict[str, Any]


def json_schema() -> Schema:
    """Return the schema as plain data; of components it knows those that are imported.

    No key is required, since the file that an experiment builds on may give it, and wherever a value stands
    `${…}` and `_merge_` may stand too. All else is as `trainer check` has it.
    """
    schema = ExperimentConfig.model_json_schema()
    definitions: Schema = schema.pop("$defs")
    for section in (schema, *definitions.values()):
        for name, value in section.get("properties", {}).items():
            if name in KINDS:
                _replace_reference(value, ComponentSpec.__name__, KINDS[name])
    for kind in sorted(set(KINDS.values())):
        definitions[kind] = _components(kind, definitions)
    definitions["ComponentBuildArgs"]["type"] = ["object", "null"]  # taken back, as a component is
    schema["properties"] = {"defaults": _DEFAULTS, **schema["properties"]}
    _everywhere(schema, _lenient)
    for one in definitions.values():
        _everywhere(one, _lenient)
    schema["$defs"] = {**definitions, "filled_in": _FILLED_IN, "merged": _MERGED}
    draft = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Experiment"}
    return {**draft, **schema}


def _components(kind: str, definitions: Schema) -> Schema:
    """Return the schema of a component of one registry; what it refers to is added to `definitions`."""
    registry = registries()[kind]
    keys = registry.keys()
    return {
        "type": ["object", "null"],
        "description": f"a {kind} by its registered name, with its parameters",
        "properties": {
            "type": {"type": "string", "enum": keys, "description": "registry key"},
            "params": {"type": "object", "description": "constructor arguments"},
        },
        "additionalProperties": False,
        "allOf": [
            {
                "if": {"properties": {"type": {"const": key}}, "required": ["type"]},
                "then": {"properties": {"params": _parameters(kind, key, definitions)}},
            }
            for key in keys
        ],
    }


def _parameters(kind: str, key: str, definitions: Schema) -> Schema:
    registry = registries()[kind]
    known = describe(registry, key)
    targets = receivers(registry.get(key))
    model, _ = parameter_model(targets, reserved_by(kind))
    properties: Schema = {}
    for one in known.parameters:
        field = model.model_fields[one.name]
        properties[one.name] = _parameter(field.annotation, field.metadata, f"{kind}.{key}", definitions)
        if one.meaning:
            properties[one.name]["description"] = one.meaning
        if one.default is not REQUIRED:
            properties[one.name]["default"] = json.loads(json.dumps(one.default, default=str))
        properties[one.name] = _or_null(properties[one.name])
    takes_any = known.is_open or (kind == "dataset_builder" and not hasattr(registry.get(key), "parameters"))
    return {
        "type": ["object", "null"],
        "description": known.summary,
        "properties": properties,
        # Null takes back what another component took in a file below.
        "additionalProperties": takes_any or {"type": "null"},
    }


def _parameter(annotation: Any, metadata: list[Any], owner: str, definitions: Schema) -> Schema:
    """Return the schema of one parameter; anything where its type is none of JSON's."""
    kind = annotation
    for constraint in metadata:
        kind = Annotated[kind, constraint]
    try:
        schema = pydantic.TypeAdapter(kind).json_schema(ref_template=f"#/$defs/{owner}.{{model}}")
    except (pydantic.errors.PydanticUserError, TypeError):
        return {}
    for name, one in schema.pop("$defs", {}).items():
        definitions[f"{owner}.{name}"] = one
    return schema


def _replace_reference(schema: Any, old: str, new: str) -> None:
    if isinstance(schema, dict):
        if schema.get("$ref") == f"#/$defs/{old}":
            schema["$ref"] = f"#/$defs/{new}"
        for child in schema.values():
            _replace_reference(child, old, new)
    elif isinstance(schema, list):
        for child in schema:
            _replace_reference(child, old, new)


def _everywhere(schema: Any, change: Callable[[Schema], Schema]) -> None:
    """Change the schema of every property, innermost first, and require none; titles say nothing."""
    if isinstance(schema, list):
        for child in schema:
            _everywhere(child, change)
    if not isinstance(schema, dict):
        return
    if "properties" in schema and "if" not in schema:
        schema.pop("required", None)
    for key in ("title", "resume"):
        if isinstance(schema.get(key), str):
            schema.pop(key)
    for name, child in schema.items():
        if name == "if":
            continue
        _everywhere(list(child.values()) if name == "properties" else child, change)
        if name == "properties":
            schema[name] = {key: change(one) for key, one in child.items()}


def _lenient(schema: Schema) -> Schema:
    """Return a schema that takes `${…}` and a merge directive too; what describes it stays on top.

    Sections stay as they are: where one of several forms is asked for, editors can no longer say which key
    of it is wrong. Values under free names may be null, which takes back what a file builds on.
    """
    if schema is _DEFAULTS:
        return schema
    if "object" in schema.get("type", ""):
        values = schema.get("additionalProperties")
        if isinstance(values, dict) and "$ref" not in values:
            return {**schema, "additionalProperties": _or_null(values)}
        return schema
    forms = schema.get("anyOf", [schema])
    if any("$ref" in one for one in forms):
        return schema
    said, rest = _apart(schema)
    if rest.get("type") == "array":  # so that an editor says which entry is wrong
        return {**said, "if": {"type": "array"}, "then": rest, "else": {"anyOf": _OTHERS}}
    return {**said, "anyOf": [rest, *_OTHERS]}


def _or_null(schema: Schema) -> Schema:
    said, rest = _apart(schema)
    return {**said, "anyOf": [rest, {"type": "null"}]}


def _apart(schema: Schema) -> tuple[Schema, Schema]:
    """Return what describes a value, and what is asked of it."""
    said = {key: value for key, value in schema.items() if key in ("description", "default")}
    return said, {key: value for key, value in schema.items() if key not in said}
