"""`trainer diff`: what a configuration would change of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trainer.commands.errors import user_errors
from trainer.commands.options import overrides_option

if TYPE_CHECKING:
    from trainer.engine.resume import Change


@click.command("diff")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("config", type=click.Path(path_type=Path))
@overrides_option
@click.option(
    "--ranks", type=click.IntRange(min=1), default=1, show_default=True, help="Ranks that would train."
)
@click.option("--json", "for_programs", is_flag=True, help="Print JSON: `may_go_on`, and `changes`.")
def diff(run: Path, config: Path, overrides: tuple[str, ...], ranks: int, for_programs: bool) -> None:
    """Print what the experiment YAML CONFIG would change of RUN, and whether the run may go on with it.

    RUN is a run folder, of which the latest checkpoint is taken, or a checkpoint. Exit code 0 where the run
    may go on with these settings, 1 where it may not, 2 for mistakes.

    \b
    Example:
      trainer diff runs/push my_experiment.yaml --set train.epoch=200
    """
    from trainer.checkpoint.folder import find_checkpoint, load_manifest
    from trainer.config.loader import load_located
    from trainer.config.paths import expanded
    from trainer.engine.build_data import build_data
    from trainer.engine.check import check
    from trainer.engine.resume import changes

    with user_errors():
        folder = find_checkpoint(expanded(run))
        manifest = load_manifest(folder)
        checked = check(load_located(config, overrides), ranks)
        data = build_data(checked, ranks)
        settings = checked.config
        global_batch = settings.data.batch_size * settings.train.accumulate_grad_batches * ranks
        found = changes(checked, folder, manifest, global_batch, data.steps_per_epoch)
    may_go_on = all(one.is_allowed for one in found)
    if for_programs:
        shown = [
            {"what": c.what, "before": c.before, "after": c.after, "is_allowed": c.is_allowed} for c in found
        ]
        click.echo(json.dumps({"may_go_on": may_go_on, "changes": shown}, indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(_lines(found, folder, checked.run)))
    if not may_go_on:
        raise SystemExit(1)


def _lines(found: list[Change], folder: Path, into: Path) -> list[str]:
    width = max((len(one.what) for one in found), default=0)
    lines = []
    for is_allowed, head in ((False, "May not change:"), (True, "May change:")):
        these = [one for one in found if one.is_allowed is is_allowed]
        lines += [head] * bool(these)
        lines += [f"  {one.what:<{width}}  {_value(one.before)} → {_value(one.after)}" for one in these]
    if not found:
        lines.append(f"Nothing differs from {folder}.")
    elif any(not one.is_allowed for one in found):
        lines.append(
            f"{folder} cannot go on with these settings: choose another train.save_dir, or take them back."
        )
    else:
        lines.append(f"{folder} can go on with these settings.")
    if into.resolve() != folder.parent.resolve():
        lines.append(f"Note: the configuration trains into {into}.")
    return lines


def _value(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:59]}…"
