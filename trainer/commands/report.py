"""`trainer report RUN [RUN …]`: one HTML page about a run, or about several side by side."""

from __future__ import annotations

import json
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
    help="The page to write.  [default: <run>/report.html; of several runs comparison_RUN_RUN.html here]",
)
@overrides_option
@click.option("--json", "for_programs", is_flag=True, help="Print JSON: `page`, and `verdicts` by run.")
def report(runs: tuple[Path, ...], out: Path | None, overrides: tuple[str, ...], for_programs: bool) -> None:
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
        page = build_report(folders[0], out) if len(folders) == 1 else build_comparison(folders, out)
    except ReportError as error:
        raise UserError(str(error)) from error
    verdicts = {str(folder): read_verdicts(folder) for folder in folders}
    if for_programs:
        click.echo(json.dumps({"page": str(page), "verdicts": verdicts}, indent=2, ensure_ascii=False))
        return
    for folder, said in verdicts.items():
        for verdict in said:
            click.echo(verdict if len(folders) == 1 else f"{folder}: {verdict}")
    click.echo(f"Report: {page}")
