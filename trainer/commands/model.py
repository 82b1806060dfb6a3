"""`trainer model show`: what a model YAML describes, without building it for real."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import click

from trainer.commands.errors import UserError, user_errors
from trainer.commands.options import Commands


@click.group("model", cls=Commands)
def model() -> None:
    """Look at model YAML files."""


@model.command("show", short_help="Print modules, parameters and shapes of a model, or draw it.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="NAME=SHAPE",
    help="An input's shape, such as state=2x16x7 or index=2x5/int64; a list of tensors as views=[2x3,2x4]; "
    "any other value as training:=false. Without it the file's own `shapes` section is taken.",
)
@click.option(
    "--batch", type=click.IntRange(min=1), default=2, show_default=True, help="What B means in `shapes`."
)
@click.option("--svg", type=click.Path(path_type=Path, dir_okay=False), help="Draw the graph into this file.")
@click.option("--code", is_flag=True, help="Print the forward that the graph becomes.")
@click.option(
    "--json", "for_programs", is_flag=True, help="Print JSON: `modules`, `steps` with their shapes, `code`, …"
)
def show(
    file: Path, inputs: tuple[str, ...], batch: int, svg: Path | None, code: bool, for_programs: bool
) -> None:
    """Print the modules, parameters and shapes of the model in FILE; nothing is allocated.

    Exit code 2 for mistakes in the file, and where shapes do not fit together.

    \b
    Example:
      trainer model show models/decoder.yaml --input noise=2x16x7 --svg decoder.svg
    """
    from model_constructor import describe, parse_input, render_svg, render_text

    from trainer.config.paths import config_file

    try:
        with user_errors():
            description = describe(config_file(file), dict(parse_input(text) for text in inputs), batch=batch)
    except ValueError as error:
        raise UserError(str(error)) from error
    if not for_programs:
        click.echo(render_text(description, code=code), nl=False)
    if svg is not None:
        try:
            svg.parent.mkdir(parents=True, exist_ok=True)
            svg.write_text(render_svg(description), encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write {svg}: {error.strerror}") from error
    if for_programs:
        misfit = None if description.misfit is None else str(description.misfit)
        plain = {**asdict(replace(description, misfit=None)), "misfit": misfit, "svg": svg and str(svg)}
        click.echo(json.dumps(plain, indent=2, ensure_ascii=False))
    elif svg is not None:
        click.echo(f"\ndrawn in {svg}")
    if description.misfit is not None:
        with user_errors():
            raise description.misfit
