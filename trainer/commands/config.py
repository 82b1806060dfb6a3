"""`trainer config`: the resolved configuration, each value with where it came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trainer.commands.errors import user_errors
from trainer.commands.options import overrides_option

if TYPE_CHECKING:
    from trainer.config.loader import LocatedConfig


@click.command("config")
@click.argument("config", type=click.Path(path_type=Path), metavar="CONFIG")
@overrides_option
@click.option("--given", is_flag=True, help="Leave out what has its default.")
@click.option("--json", "for_programs", is_flag=True, help="Print JSON: `config`, and `origins` by path.")
def config(config: Path, overrides: tuple[str, ...], given: bool, for_programs: bool) -> None:
    """Print the configuration of the experiment YAML CONFIG with everything filled in, as YAML.

    Behind each value stands where it came from: file:line:column, the --set that gave it, or `default`.
    Plugins are imported, since components have defaults too; nothing else is opened.

    \b
    Example:
      trainer config examples/configs/minimal.yaml --set train.epoch=3
    """
    from trainer.config.loader import load_located
    from trainer.config.origins import as_json, as_yaml

    with user_errors():
        located = load_located(config, overrides)
        resolved = resolve(located)
    text = (as_json if for_programs else as_yaml)(located, resolved, with_defaults=not given)
    click.echo(text.rstrip("\n"))


def resolve(located: LocatedConfig) -> dict[str, Any]:
    """Return a configuration with all defaults, also those of its components.

    Raises:
        ConfigError: every mistake in it.
    """
    from trainer.config.validation import Issues, validate_schema
    from trainer.engine.check import check_components, component_specs
    from trainer.engine.registered import REQUIRED, describe

    issues = Issues(located)
    checked, _ = check_components(issues, validate_schema(issues))
    issues.raise_if_any()
    assert checked is not None
    for path, registry, spec in component_specs(located.data):
        parameters = describe(registry, spec["type"]).parameters
        given = checked.at(path).params
        defaults = {
            one.name: json.loads(json.dumps(one.default, default=str))
            for one in parameters
            if one.default is not REQUIRED and one.name not in given
        }
        checked = checked.with_parameters(path, {**given, **defaults})
    plain: dict[str, Any] = checked.model_dump(mode="json")
    return plain
