"""`trainer check`: what an experiment would train, and everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from trainer.commands.errors import user_errors
from trainer.commands.options import overrides_option

if TYPE_CHECKING:
    from trainer.engine.build_data import Data
    from trainer.engine.check import CheckedConfig


@click.command("check")
@click.argument("config", type=click.Path())
@overrides_option
@click.option(
    "--ranks", type=click.IntRange(min=1), default=1, show_default=True, help="Ranks that would train."
)
def check(config: str, overrides: tuple[str, ...], ranks: int) -> None:
    """Print what the experiment of the YAML file CONFIG would train; nothing is trained or written.

    Exit code 2 when something is wrong, with every mistake and its place.

    \b
    Example:
      trainer check my_experiment.yaml --ranks 8
    """
    # `trainer --help` need not wait for these.
    from trainer.config.loader import load_located
    from trainer.engine.build_data import build_data
    from trainer.engine.check import check as check_config

    with user_errors():
        checked = check_config(load_located(config, overrides), ranks)
        data = build_data(checked, ranks)
    for line in _table([*_components(checked), *_batches(checked, data, ranks)]):
        click.echo(line)
    for warning in (*checked.warnings, *data.warnings):
        click.echo(f"Warning: {warning}")


def _components(checked: CheckedConfig) -> Iterator[tuple[str, str]]:
    config = checked.config
    frozen = {name for name, flags in config.model.component_build_args.items() if flags.freeze}
    for name, path in config.model.component_config_paths.items():
        optimizer = config.optimizers.get(name)
        how = "frozen" if name in frozen else f"{optimizer[1].type}" if optimizer else "not trained"
        yield f"component {name}", f"{path}, {how}"


def _batches(checked: CheckedConfig, data: Data, ranks: int) -> Iterator[tuple[str, str]]:
    config = checked.config
    size, micro_batches = config.data.batch_size, config.train.accumulate_grad_batches
    total = config.total_steps(data.steps_per_epoch)
    held_out = "" if data.held_out is None else f", {len(data.held_out):,} more to validate on"
    yield "trainer", config.train.trainer.type
    yield "data", f"{config.data.datamodule.type}, {len(data.dataset):,} samples{held_out}"
    yield "batch of a rank", f"{size:,} samples"
    yield "micro-batches", f"{micro_batches:,} an update"
    yield "ranks", f"{ranks:,}"
    yield "global batch", f"{size * micro_batches * ranks:,} samples an update"
    yield "updates", f"{data.steps_per_epoch:,} an epoch, {total:,} in all"
    yield "run folder", str(checked.run)


def _table(rows: list[tuple[str, str]]) -> Iterator[str]:
    width = max(len(name) for name, _ in rows)
    yield from (f"{name:<{width}}  {text}" for name, text in rows)
