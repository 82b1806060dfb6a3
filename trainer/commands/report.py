"""`trainer report <run>`: one HTML page about a run."""

from __future__ import annotations

from pathlib import Path

import click

from trainer.commands.errors import UserError


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The page to write.  [default: <run>/report.html]",
)
def report(run: Path, out: Path | None) -> None:
    """Write one self-contained HTML page about RUN, the save_dir of a training, finished or not."""
    from trainer.evaluation.report import (  # `trainer --help` need not wait for these
        ReportError,
        build_report,
    )

    try:
        page = build_report(run, out)
    except ReportError as error:
        raise UserError(str(error)) from error
    click.echo(str(page))
