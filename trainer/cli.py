"""The console command `trainer`."""

from __future__ import annotations

from typing import Any

import click

from trainer import __version__
from trainer.commands.check import check
from trainer.commands.data import data
from trainer.commands.errors import UserError
from trainer.commands.evaluate import evaluate
from trainer.commands.model import model
from trainer.commands.new import new
from trainer.commands.online import online
from trainer.commands.record import record
from trainer.commands.report import report
from trainer.commands.train import train
from trainer.utils.import_utils import needs_training_libraries


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; where a library of the extra `train` is missing, say so in one sentence."""
        try:
            with needs_training_libraries("This command"):
                return super().invoke(ctx)
        except ModuleNotFoundError as error:
            if error.__cause__ is None:
                raise
            raise UserError(str(error)) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Train imitation-learning policies for robots from one YAML file."""


for command in (record, check, train, online, evaluate, report, model, data, new):
    main.add_command(command)


if __name__ == "__main__":
    main()
