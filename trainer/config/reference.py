"""Writes the page of all keys: `python -m trainer.config.reference > docs/experiment.md`."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator, Mapping, Sequence

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from trainer.config.schemas import ExperimentConfig
from trainer.config.section import section_in

HEAD = """# The experiment YAML

Made by `python -m trainer.config.reference > docs/experiment.md` from the schema; do not edit it.

* An unknown key is an error, and the nearest known one is named.
* `defaults:` is a list of paths, `- base.yaml` or `- label: base.yaml`, merged in order below the file
  itself; mappings are merged key by key, everything else is replaced. Paths start at the folder of the file
  that names them; what is not there may be a shipped config, such as `examples/configs/minimal.yaml`.
  `key: {_merge_: replace, _value_: …}` replaces a mapping as a whole; `append`, `prepend`
  and `keyed` (with `key: name`) extend a list. All this is as in the model YAMLs.
* `null` takes back what a file builds on where names are free: in `params` of any component, and under
  `component_optims`, `component_build_args` and `component_config_paths`.
* Parameters are checked against what receives them and converted once (`"2"` to 2 where a number is asked
  for); checkpoints hold the converted values. `1e-4` is a number.
* `trainer check X.yaml` prints what would run and everything that is wrong, and proves the rest by two
  updates in a temporary folder: [what it proves](check.md).
* `${params.task}` stands for the value at that path, `${env:NAME}` for an environment variable.
* Files are looked up beside the YAML that names them, then in the project (the nearest folder above with
  `.git` or `pyproject.toml`). What is written starts at the project. `~` is the home folder.
* `--set dotted.path=value` overrides one value: a number, a text, a list, a mapping or `null`, read as YAML.
  `'train.callbacks[0].params.patience=5'` reaches into a list; a key with a dot in it stands in quotes,
  `'data.normalization."observation.state"=min_max'`. An override that changes nothing is warned of.
* A checkpoint decides nothing about code: `load_policy` and `trainer evaluate RUN` import the plugins that it
  names only if they are shipped, installed with an entry point `trainer.plugins`, or trusted by the caller
  (`trust=["my_package"]`, `--trust my_package`), and its model YAMLs may not use `imports` of other packages
  or `_target_`. Training, resuming and `trainer evaluate CONFIG` import the plugins of the configuration that
  the user names.

| key | type | default | meaning |
|---|---|---|---|"""


def rows(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield one table row per key, sections before what is in them."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        section = section_in(field.annotation)
        origin = typing.get_origin(field.annotation) if section else None
        inner = ".<name>" if origin is dict else "[]" if origin is list else ""
        about = (section.__doc__ or "").strip().splitlines()[0] if section else ""
        kind = type_name(field.annotation)
        yield f"| `{path}{inner}` | {kind} | {_default(field)} | {field.description or about} |"
        if section is not None:
            yield from rows(section, f"{path}{inner}.")


def type_name(annotation: object) -> str:
    """Return an annotation in the words of YAML."""
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    if section_in(annotation) is not None:
        return "section"
    arguments = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return " or ".join(f"`{a}`" for a in arguments)
    if origin in (list, Sequence):
        return f"list of {type_name(arguments[0])}"
    if origin in (dict, Mapping):
        return f"mapping of {type_name(arguments[1])}"
    if origin is tuple:
        return f"list of {', '.join(type_name(a) for a in arguments if a is not Ellipsis)}"
    if arguments:
        return " or ".join(type_name(a) for a in arguments)
    words: dict[typing.Any, str] = {
        str: "text",
        int: "integer",
        float: "number",
        bool: "true or false",
        type(None): "null",
    }
    return words.get(annotation, "anything")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return ""
    return f"`{json.dumps(value, default=lambda v: v.model_dump(exclude_defaults=True))}`"


if __name__ == "__main__":
    print(HEAD)
    print("\n".join(rows(ExperimentConfig)))
