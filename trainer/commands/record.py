"""`trainer record`: demonstrations from a simulator's scripted expert."""

from __future__ import annotations

from pathlib import Path

import click

from trainer.commands.errors import UserError, user_errors
from trainer.commands.experiments import recording_of
from trainer.commands.options import overrides_option


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
@click.option(
    "--camera",
    "cameras",
    multiple=True,
    metavar="NAME",
    help="A camera to record through, such as cam_head; give it once for each.  [default: no pictures]",
)
@click.option(
    "--camera-size", type=click.IntRange(16, 320), help="Edge of the pictures in px.  [default: 96]"
)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    help="Processes that play and draw.  [default: one per core with cameras, else one]",
)
@click.option("--overwrite", is_flag=True, help="Replace another dataset at that folder.")
@overrides_option
def record(
    env: str | None,
    episodes: int | None,
    seed: int | None,
    out: Path | None,
    config: str | None,
    cameras: tuple[str, ...],
    camera_size: int | None,
    processes: int | None,
    overwrite: bool,
    overrides: tuple[str, ...],
) -> None:
    """Record successful episodes of a scripted expert as a LeRobot v3.0 dataset.

    The same command gives the same bytes, however many processes record, and keeps a dataset that it made
    before.

    \b
    Example:
      trainer record --env metaworld/push-v3 --episodes 50 --out datasets/push
    """
    from trainer.evaluation.record import CAMERA_SIZE
    from trainer.evaluation.record import record as record_dataset

    with user_errors():
        if config is not None:
            settings, root = recording_of(config, overrides)
            env, out = env or settings.env, out or root
            episodes, seed = episodes or settings.episodes, settings.seed if seed is None else seed
            processes = processes or settings.processes
            if settings.cameras is not None:
                cameras = cameras or tuple(settings.cameras.names)
                camera_size = camera_size or settings.cameras.size
    if overrides and config is None:
        raise UserError("--set has no effect without --train_config")
    if env is None or out is None:
        raise UserError("record needs --env and --out, or --train_config with a data.recording section")
    if camera_size is not None and not cameras:
        raise UserError("--camera-size has no effect without --camera")
    with user_errors():
        summary = record_dataset(
            env,
            episodes or 50,
            seed or 0,
            out,
            cameras=cameras,
            camera_size=camera_size or CAMERA_SIZE,
            processes=processes,
            overwrite=overwrite,
        )
    click.echo(summary.summary())
