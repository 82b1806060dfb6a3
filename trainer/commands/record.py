"""`trainer record`: demonstrations from a simulator's scripted expert."""

from __future__ import annotations

from pathlib import Path

import click

from trainer.commands.errors import UserError


@click.command("record")
@click.option("--env", required=True, help="Simulator and task, such as metaworld/pick-place-v3.")
@click.option("--episodes", type=click.IntRange(min=1), default=50, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Chooses the starts.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder of the dataset."
)
@click.option("--overwrite", is_flag=True, help="Replace another dataset at that folder.")
def record(env: str, episodes: int, seed: int, out: Path, overwrite: bool) -> None:
    """Record successful episodes of a scripted expert as a LeRobot v3.0 dataset.

    The same command gives the same bytes, and keeps a dataset that it made before.
    """
    from trainer.evaluation.record import record as record_dataset

    try:
        summary = record_dataset(env, episodes, seed, out, overwrite=overwrite)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
    click.echo(summary.summary())
