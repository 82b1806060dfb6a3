"""`trainer data`: looking at datasets, their statistics, and taking over those of other formats."""

from __future__ import annotations

import json
from pathlib import Path

import click

from trainer.commands.errors import UserError, user_errors
from trainer.commands.options import Commands
from trainer.config.paths import expanded

# Named here, so that `trainer --help` need not wait for what reads them; a test holds them together.
_FORMATS = ("diffusion_policy_zarr", "robomimic_hdf5", "aloha_hdf5")


@click.group("data", cls=Commands)
def data() -> None:
    """Look at datasets, recompute their statistics, convert other formats."""


@data.command("inspect", short_help="Print what a dataset holds, and all that is wrong with it.")
@click.argument("root", type=click.Path(path_type=Path))
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a page with plots and film strips."
)
@click.option(
    "--show",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Episodes on the page, those with faults first.",
)
@click.option("--decode", is_flag=True, help="Decode every frame of every video, which takes a while.")
@click.option("--strict", is_flag=True, help="Exit with 1 on remarks too.")
@click.option("--json", "for_programs", is_flag=True, help="Print JSON: everything, and `page` with --html.")
def inspect(root: Path, html: Path | None, show: int, decode: bool, strict: bool, for_programs: bool) -> None:
    """Print what the LeRobot dataset in ROOT holds, and everything that is wrong with it.

    Exit code 0 when no fault was found, 1 when there are some, 2 when there is no dataset.

    \b
    Example:
      trainer data inspect datasets/push --html push.html
    """
    from trainer.data.inspection import inspect_dataset
    from trainer.data.inspection.table import as_plain, as_text
    from trainer.pages.dataset.page import write_page

    with user_errors():
        inspection = inspect_dataset(expanded(root), decode=decode)
    if not for_programs:
        click.echo(as_text(inspection))
    if html is not None:
        try:
            write_page(inspection, html, show=show)
        except OSError as error:
            raise UserError(f"the page {html} cannot be written: {error.strerror}") from error
    page = None if html is None else str(html)
    if for_programs:
        click.echo(json.dumps({**as_plain(inspection), "page": page}, indent=2, ensure_ascii=False))
    elif page is not None:
        click.echo(f"Page: {page}")
    if inspection.faults or (strict and inspection.findings):
        raise SystemExit(1)


@data.command("stats", short_help="Compute the statistics of a dataset from its numbers.")
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--write", is_flag=True, help="Replace meta/stats.json; without it, nothing is changed.")
@click.option(
    "--json",
    "for_programs",
    is_flag=True,
    help="Print JSON: `statistics`, `differences` from the stored ones, and `written` with --write.",
)
def stats(root: Path, write: bool, for_programs: bool) -> None:
    """Compute the statistics of the LeRobot dataset in ROOT from every number in it.

    Those of cameras stay as they are.

    \b
    Example:
      trainer data stats datasets/push --write
    """
    from trainer.data.inspection.recompute import as_plain, as_text, recompute

    with user_errors():
        result = recompute(expanded(root))
    if not for_programs:
        click.echo(as_text(result))
    written = None
    if write:
        try:
            written = str(result.write())
        except OSError as error:
            raise UserError(f"the statistics of {root} cannot be written: {error.strerror}") from error
    if for_programs:
        click.echo(json.dumps({**as_plain(result), "written": written}, indent=2, ensure_ascii=False))
    elif written is not None:
        click.echo(f"Written: {written}")


@data.command("convert")
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--to", "target", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder to make."
)
@click.option("--format", "kind", type=click.Choice(_FORMATS), help="What SOURCE is.  [default: found out]")
@click.option("--fps", type=click.FloatRange(min=0, min_open=True), help="Where the source does not say it.")
@click.option("--task", help="What the robot is doing.  [default: what the source says, else its name]")
@click.option("--robot-type", help="The robot's name.  [default: what the source says]")
@click.option("--no-cameras", is_flag=True, help="Leave the pictures out.")
def convert(
    source: Path,
    target: Path,
    kind: str | None,
    fps: float | None,
    task: str | None,
    robot_type: str | None,
    no_cameras: bool,
) -> None:
    """Write the demonstrations in SOURCE as a LeRobot v3.0 dataset.

    SOURCE is a zarr folder or zip of Diffusion Policy, a robomimic HDF5 file, or a folder of ALOHA HDF5
    files. Pictures become videos.

    \b
    Example:
      trainer data convert lift/image.hdf5 --to datasets/lift --fps 20
    """
    from trainer.data.conversion import convert as convert_dataset

    try:
        with user_errors():
            made = convert_dataset(
                expanded(source),
                expanded(target),
                format=kind,
                fps=fps,
                task=task,
                robot_type=robot_type,
                cameras=not no_cameras,
            )
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror or error}") from error
    for note in made.notes:
        click.echo(f"Note: {note}.", err=True)
    click.echo(
        f"{made.episodes} episodes, {made.frames:,} frames at {made.fps:g} frames/s from {made.format}: "
        f"{', '.join(made.features)}"
    )
    click.echo(f"Dataset: {made.root}")
