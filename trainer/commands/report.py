"""`trainer report <run>`: one HTML page about a run."""

from __future__ import annotations

from pathlib import Path

import click

from trainer.commands.errors import UserError, user_errors
from trainer.commands.experiments import run_folder
from trainer.commands.options import overrides_option


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The page to write.  [default: <run>/report.html]",
)
@overrides_option
def report(run: Path, out: Path | None, overrides: tuple[str, ...]) -> None:
    """Write one self-contained HTML page about RUN, finished or not.

    RUN is the save_dir of a training, or the experiment YAML that was trained.

    \b
    Example:
      trainer report runs/push --out push.html
    """
    # `trainer --help` need not wait for these.
    from trainer.pages.report import ReportError, build_report, read_verdicts

    try:
        with user_errors():
            folder = run_folder(run, overrides)
        page = build_report(folder, out)
    except ReportError as error:
        raise UserError(str(error)) from error
    for verdict in read_verdicts(folder):
        click.echo(verdict)
    click.echo(f"Report: {page}")
