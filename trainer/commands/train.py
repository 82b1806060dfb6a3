"""`trainer train`: the offline trainer under the name of the console command."""

from __future__ import annotations

import click


@click.command("train")
@click.argument("config", type=click.Path())
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a value of the YAML.")
def train(config: str, overrides: tuple[str, ...]) -> None:
    """Train the experiment of the YAML file CONFIG, in one process or as a rank of torchrun."""
    from trainer.offline_trainer import run

    run(config, overrides)
