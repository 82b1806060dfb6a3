"""The console command `trainer`."""

from __future__ import annotations

import click

from trainer import __version__
from trainer.commands.check import check
from trainer.commands.data import data
from trainer.commands.evaluate import evaluate
from trainer.commands.model import model
from trainer.commands.record import record
from trainer.commands.report import report
from trainer.commands.train import train


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Train imitation-learning policies for robots from one YAML file."""


for command in (record, check, train, evaluate, report, model, data):
    main.add_command(command)


if __name__ == "__main__":
    main()
