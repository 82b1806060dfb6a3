"""`trainer online`: the online trainer under the name of the console command."""

from __future__ import annotations

from typing import Any

import click

from trainer.commands.options import given_options, overrides_option, ray_options


@click.command("online")
@click.argument("config", type=click.Path())
@overrides_option
@ray_options()
@click.option("--namespace", default="online", show_default=True, help="Where others find this run's actors.")
def online(config: str, overrides: tuple[str, ...], namespace: str, **ray: Any) -> None:
    """Train the experiment of the YAML file CONFIG on demonstrations and on what robots collect meanwhile.

    \b
    Example:  trainer online examples/configs/metaworld_push_online.yaml
    """
    from trainer.online_trainer import run

    run(config, overrides, namespace=namespace, **given_options(ray))
