"""`trainer train`: the offline trainer under the name of the console command, here or on a Ray cluster."""

from __future__ import annotations

from typing import Any

import click

from trainer.commands.errors import UserError
from trainer.commands.options import given_options, overrides_option, ray_options


@click.command("train")
@click.argument("config", type=click.Path())
@overrides_option
@click.option(
    "--backend",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="local: this process, or all those that torchrun starts; ray: workers of a Ray cluster.",
)
@ray_options("Ray: ")
def train(config: str, overrides: tuple[str, ...], backend: str, **ray: Any) -> None:
    """Train the experiment of the YAML file CONFIG: in one process, as a rank of torchrun, or on Ray.

    \b
    Examples:
      trainer train my_experiment.yaml --set train.epoch=100
      trainer train my_experiment.yaml --backend ray --num-workers 4
    """
    options = given_options(ray)
    if backend == "local":
        if options:
            names = " and ".join(f"--{name.replace('_', '-')}" for name in options)
            raise UserError(f"{names} have no effect without --backend ray")
        from trainer.offline_trainer import run

        run(config, overrides)
        return
    from trainer.ray_trainer import train_on_ray
    from trainer.utils.log import let_nobody_listen

    let_nobody_listen()
    train_on_ray(config, overrides, **options).tell()
