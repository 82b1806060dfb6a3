"""`trainer train`: the offline trainer under the name of the console command, here or on a Ray cluster."""

from __future__ import annotations

import click

from trainer.commands.errors import UserError
from trainer.commands.options import overrides_option


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
@click.option("--num-workers", type=click.IntRange(min=1), help="Ray: number of workers.  [default: 1]")
@click.option(
    "--address", help="Ray: a running cluster (auto, host:port, ray://host:port); else one is started."
)
@click.option(
    "--max-failures",
    type=click.IntRange(min=0),
    help="Ray: how often to go on from the last checkpoint when a worker is lost.  [default: 3]",
)
@click.option(
    "--cpus-per-worker", type=click.IntRange(min=1), help="Ray: CPU cores of a worker, and its threads."
)
def train(
    config: str,
    overrides: tuple[str, ...],
    backend: str,
    num_workers: int | None,
    address: str | None,
    max_failures: int | None,
    cpus_per_worker: int | None,
) -> None:
    """Train the experiment of the YAML file CONFIG: in one process, as a rank of torchrun, or on Ray.

    \b
    Examples:
      trainer train my_experiment.yaml --set train.epoch=100
      trainer train my_experiment.yaml --backend ray --num-workers 4
    """
    if backend == "local":
        options = {
            "--num-workers": num_workers,
            "--address": address,
            "--max-failures": max_failures,
            "--cpus-per-worker": cpus_per_worker,
        }
        idle = [name for name, value in options.items() if value is not None]
        if idle:
            raise UserError(f"{' and '.join(idle)} have no effect without --backend ray")
        from trainer.offline_trainer import run

        run(config, overrides)
        return
    from trainer.ray_trainer import train_on_ray
    from trainer.utils.log import let_nobody_listen

    let_nobody_listen()

    train_on_ray(
        config,
        overrides,
        num_workers=num_workers or 1,
        address=address,
        max_failures=3 if max_failures is None else max_failures,
        cpus_per_worker=cpus_per_worker,
    ).tell()
