"""`trainer schema`: a JSON schema of the experiment YAML, for editors."""

from __future__ import annotations

import json
from pathlib import Path

import click

from trainer.commands.errors import UserError, user_errors


@click.command("schema")
@click.argument("config", type=click.Path(path_type=Path), required=False)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write; else it is printed."
)
def schema(config: Path | None, out: Path | None) -> None:
    """Print the JSON schema of the experiment YAML, with the parameters of every registered component.

    Those of the plugins that the experiment YAML CONFIG names are in it too. An editor with a YAML language
    server then completes keys and underlines mistakes, if the first line of an experiment is
    `# yaml-language-server: $schema=experiment.schema.json`.

    \b
    Example:
      trainer schema my_experiment.yaml --out experiment.schema.json
    """
    from trainer.commands.experiments import plugins_of
    from trainer.engine.json_schema import KINDS, json_schema
    from trainer.engine.registered import load_plugins_of

    with user_errors():
        missing = load_plugins_of(sorted(set(KINDS.values())), *plugins_of(config))
    for module, why in missing.items():
        click.echo(f"Note: {module} is left out: {why}.", err=True)
    text = json.dumps(json_schema(), indent=2, ensure_ascii=False)
    if out is None:
        click.echo(text)
        return
    try:
        out.write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from error
    click.echo(f"Schema: {out}")
