"""`trainer report RUN [RUN …]`: one HTML page about a run, or about several side by side."""

from __future__ import annotations

from pathlib import Path

import click

from trainer.commands.errors import UserError, user_errors
from trainer.commands.experiments import run_folder
from trainer.commands.options import overrides_option


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The page to write.  [default: <run>/report.html; of several runs comparison.html here]",
)
@overrides_option
def report(runs: tuple[Path, ...], out: Path | None, overrides: tuple[str, ...]) -> None:
    """Write one self-contained HTML page about RUN, finished or not, or about several in comparison.

    RUN is the save_dir of a training, or the experiment YAML that was trained. Of several, the others are
    held against the first.

    \b
    Example:
      trainer report runs/push --out push.html
    """
    # `trainer --help` need not wait for these.
    from trainer.pages.report import ReportError, build_comparison, build_report, read_verdicts

    try:
        with user_errors():
            folders = [run_folder(run, overrides) for run in runs]
        if len(folders) == 1:
            page = build_report(folders[0], out)
        else:
            page = build_comparison(folders, out if out is not None else Path("comparison.html"))
    except ReportError as error:
        raise UserError(str(error)) from error
    for folder in folders:
        for verdict in read_verdicts(folder):
            click.echo(verdict if len(folders) == 1 else f"{folder}: {verdict}")
    click.echo(f"Report: {page}")
