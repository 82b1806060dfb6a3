"""Trains a policy from demonstrations: one process, or several under torchrun.

`python trainer/offline_trainer.py --train_config X.yaml`, and the same after `torchrun --nproc_per_node=2`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

# Run as a file, this folder is first on the path and the project is not: put that right before our imports.
if __package__ in (None, ""):
    here = Path(__file__).resolve().parent
    sys.path[:] = [str(here.parent), *(p for p in sys.path if Path(p or ".").resolve() != here)]

import click

from trainer.commands.errors import user_errors
from trainer.config.loader import load_located
from trainer.engine.assemble import assemble
from trainer.engine.fit import fit
from trainer.engine.preflight import preflight
from trainer.engine.stop import Stopped
from trainer.evaluation.during_training import EvaluationCallback, check_evaluation
from trainer.runtime import PRECISIONS, connect, environment_rank, select_device


def train(config_path: str | Path, overrides: Sequence[str] = ()) -> Path:
    """Train the experiment of a YAML file and return its run folder.

    Args:
        config_path: the experiment YAML.
        overrides: `dotted.path=value` texts that win over the file.

    Raises:
        ConfigLoadError, ConfigError: the configuration is wrong; nothing was started or written.
    """
    located = load_located(config_path, overrides)
    with connect(*_where(located.data)) as runtime:
        plan = preflight(
            located,
            extra_checks=[check_evaluation],
            local_rank=runtime.local_rank,
            distributed=runtime.distributed,
        )
        if runtime.is_main:
            for warning in plan.warnings:
                click.echo(f"Warning: {warning}", err=True)
        with assemble(plan, runtime) as experiment:
            if experiment.progress.iteration and runtime.is_main:
                click.echo(f"Taking up {plan.run} after step {experiment.progress.iteration}.", err=True)
            fit(experiment, [EvaluationCallback(plan.config.train.evaluation)])
    return plan.run


def _where(raw: dict[str, object]) -> tuple[str, str]:
    """Return device and precision to connect with; what cannot be used is reported by the preflight."""
    device, precision = raw.get("device", "auto"), raw.get("precision", "auto")
    try:
        select_device(str(device), int(os.environ.get("LOCAL_RANK", "0")))
    except ValueError:
        device = "cpu"
    return str(device), str(precision) if precision in PRECISIONS else "auto"


def run(config_path: str | Path, overrides: Sequence[str] = ()) -> None:
    """Train, and say what the user has to change where that is impossible."""
    main_rank = environment_rank() == 0
    try:
        with user_errors(quiet=not main_rank):
            folder = train(config_path, overrides)
    except Stopped as stopped:
        if main_rank:
            click.echo(f"Saved and {stopped}; the same command goes on from there.", err=True)
        raise SystemExit(stopped.exit_code) from None
    if main_rank:
        click.echo(f"Trained: {folder}")


@click.command()
@click.option("--train_config", "config", required=True, type=click.Path(), help="Experiment YAML.")
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a value of the YAML.")
def main(config: str, overrides: tuple[str, ...]) -> None:
    """Train a policy from the demonstrations that an experiment YAML names."""
    run(config, overrides)


if __name__ == "__main__":
    main()
