"""`trainer list`: everything that a YAML can name, with its parameters."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trainer.commands.errors import UserError, user_errors

if TYPE_CHECKING:
    from trainer.engine.registered import Parameter, Registered


_OTHER_NAMES = {
    "policy": "trainer",
    "dataset": "dataset_builder",
    "loss": "loss_builder",
    "optimizer": "optimizer_builder",
}
"""What `trainer new` calls a kind → its registry."""


@click.command("list")
@click.argument("kind", required=False)
@click.argument("key", required=False)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="An experiment YAML, whose plugins are listed too.",
)
@click.option("--json", "for_programs", is_flag=True, help="Print JSON: a list, or one component.")
def list_command(kind: str | None, key: str | None, config: Path | None, for_programs: bool) -> None:
    """List what is registered: all kinds, those of one KIND with their parameters, or one KEY in full.

    Kinds are the registries (trainer, dataset_builder, optimizer_builder, loss_builder, callback, logger,
    metric, simulator, expert), and block and op of the model YAMLs. `policy`, `dataset`, `loss` and
    `optimizer` are understood too.

    \b
    Examples:
      trainer list
      trainer list callback
      trainer list optimizer_builder adamw_cosine_schedule
    """
    from model_constructor import did_you_mean

    from trainer.commands.experiments import plugins_of
    from trainer.engine.registered import kinds, load_plugins_of, registered

    kind = _OTHER_NAMES.get(kind or "", kind)
    if kind is not None and kind not in kinds():
        raise UserError(f"there is no kind '{kind}'; {did_you_mean(kind, kinds())}")
    asked = kinds() if kind is None else [kind]
    with user_errors():
        missing = load_plugins_of(asked, *plugins_of(config))
    found = [one for name in asked for one in registered(name)]
    if key is not None:
        keys = [one.key for one in found]
        if key not in keys:
            raise UserError(f"no {kind} is registered as '{key}'; {did_you_mean(key, keys, 'registered:')}")
        found = [found[keys.index(key)]]
    if for_programs:
        plain = [_as_json(one) for one in found]
        click.echo(json.dumps(plain[0] if key is not None else plain, indent=2, ensure_ascii=False))
    else:
        lines = _in_full(found[0]) if key else _overview(found) if kind is None else _of_one_kind(found)
        click.echo("\n".join(lines))
    for module, why in missing.items():
        click.echo(f"Note: {module} is left out: {why}.", err=True)


def _overview(found: list[Registered]) -> Iterator[str]:
    """Yield a line for each component; the blocks of torch are only counted."""
    for kind in dict.fromkeys(one.kind for one in found):
        ours = [one for one in found if one.kind == kind and not one.key.startswith("nn.")]
        others = sum(1 for one in found if one.kind == kind) - len(ours)
        yield kind if not others else f"{kind} (and {others} modules of torch, nn.…)"
        width = max(len(one.key) for one in ours)
        yield from (_cut(f"  {one.key:<{width}}  {one.summary}") for one in ours)


def _of_one_kind(found: list[Registered]) -> Iterator[str]:
    for one in found:
        yield _cut(f"{one.key}  {one.summary}")
        taken = [_short(parameter) for parameter in one.parameters] + ["…"] * one.is_open
        if taken:
            yield textwrap.fill(", ".join(taken), _width(), initial_indent="  ", subsequent_indent="  ")


def _in_full(one: Registered) -> Iterator[str]:
    yield f"{one.kind} {one.key}"
    yield f"  defined in  {one.module}"
    if one.plugin is not None:
        yield f"  plugins:    - {one.plugin}"
    body = one.doc.partition("\nArgs:\n")[0].partition("\nAttributes:\n")[0]
    yield ""
    yield body.strip()
    if one.parameters:
        yield ""
        yield "Parameters:"
    for parameter in one.parameters:
        default = "required" if _is_required(parameter) else f"default {_value(parameter.default)}"
        kind = f"{parameter.type}, " if parameter.type else ""
        yield f"  {parameter.name}  ({kind}{default})"
        if parameter.meaning:
            yield textwrap.fill(
                parameter.meaning, _width(), initial_indent="      ", subsequent_indent="      "
            )


def _short(parameter: Parameter) -> str:
    kind = f": {parameter.type}" if parameter.type else ""
    default = "" if _is_required(parameter) else f" = {_value(parameter.default)}"
    return f"{parameter.name}{kind}{default}"


def _is_required(parameter: Parameter) -> bool:
    from trainer.engine.registered import REQUIRED

    return parameter.default is REQUIRED


def _value(value: Any) -> str:
    """Return a default as YAML would have it."""
    return json.dumps(value, default=str, ensure_ascii=False)


def _as_json(one: Registered) -> dict[str, Any]:
    parameters = [
        {
            "name": parameter.name,
            "type": parameter.type,
            "required": _is_required(parameter),
            **({} if _is_required(parameter) else {"default": json.loads(_value(parameter.default))}),
            "meaning": parameter.meaning,
        }
        for parameter in one.parameters
    ]
    return {
        "kind": one.kind,
        "key": one.key,
        "module": one.module,
        "plugin": one.plugin,
        "summary": one.summary,
        "parameters": parameters,
        "takes_others": one.is_open,
    }


def _width() -> int:
    return max(60, min(shutil.get_terminal_size((110, 24)).columns, 110))


def _cut(line: str) -> str:
    return line if len(line) <= _width() else f"{line[: _width() - 1]}…"
