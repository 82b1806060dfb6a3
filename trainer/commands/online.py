"""`trainer online`: the online trainer under the name of the console command."""

from __future__ import annotations

import click

from trainer.commands.options import overrides_option


@click.command("online")
@click.argument("config", type=click.Path())
@overrides_option
@click.option(
    "--num-workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Ranks of the learner; how many robots collect stands under online.workers.",
)
@click.option("--address", help="A running cluster (auto, host:port, ray://host:port); else one is started.")
@click.option("--namespace", default="online", show_default=True, help="Where others find this run's actors.")
@click.option(
    "--max-failures",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    help="How often to go on from the last checkpoint when the learner is lost.",
)
@click.option(
    "--cpus-per-worker", type=click.IntRange(min=1), help="CPU cores of a learner's rank, and its threads."
)
def online(
    config: str,
    overrides: tuple[str, ...],
    num_workers: int,
    address: str | None,
    namespace: str,
    max_failures: int,
    cpus_per_worker: int | None,
) -> None:
    """Train the experiment of the YAML file CONFIG on demonstrations and on what robots collect meanwhile.

    \b
    Example:  trainer online examples/configs/metaworld_push_online.yaml
    """
    from trainer.online_trainer import run

    run(
        config,
        overrides,
        num_workers=num_workers,
        address=address,
        namespace=namespace,
        max_failures=max_failures,
        cpus_per_worker=cpus_per_worker,
    )
