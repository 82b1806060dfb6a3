"""`trainer record`: demonstrations from a simulator's scripted expert."""

from __future__ import annotations

from pathlib import Path

import click

from trainer.commands.errors import UserError, user_errors
from trainer.commands.experiments import recording_of


@click.command("record")
@click.option("--env", help="Simulator and task, such as metaworld/pick-place-v3.")
@click.option("--episodes", type=click.IntRange(min=1), help="Successful episodes to record.  [default: 50]")
@click.option("--seed", type=click.IntRange(min=0), help="Chooses the starts.  [default: 0]")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder of the dataset.")
@click.option(
    "--train_config",
    "config",
    type=click.Path(),
    help="Experiment YAML whose data.recording gives what is not given here; --out is then its dataset.",
)
@click.option("--overwrite", is_flag=True, help="Replace another dataset at that folder.")
def record(
    env: str | None,
    episodes: int | None,
    seed: int | None,
    out: Path | None,
    config: str | None,
    overwrite: bool,
) -> None:
    """Record successful episodes of a scripted expert as a LeRobot v3.0 dataset.

    The same command gives the same bytes, and keeps a dataset that it made before.
    """
    from trainer.evaluation.record import record as record_dataset

    with user_errors():
        if config is not None:
            asked = recording_of(config)
            env, out = env or asked.env, out or asked.out
            episodes, seed = episodes or asked.episodes, asked.seed if seed is None else seed
    if env is None or out is None:
        raise UserError("record needs --env and --out, or --train_config with a data.recording section")
    with user_errors():
        summary = record_dataset(env, episodes or 50, seed or 0, out, overwrite=overwrite)
    click.echo(summary.summary())
