"""The console command `trainer`."""

from __future__ import annotations

import importlib
import signal
from typing import Any

import click
from click.shell_completion import CompletionItem

from trainer import __version__
from trainer.commands.options import Commands, explained_usage
from trainer.utils.import_utils import needs_training_libraries

# What each command is for, so that `trainer --help` imports none; its module is `trainer.commands.<name>`.
COMMANDS = {
    "record": "Record demonstrations of a simulator's scripted expert.",
    "list": "List everything that a YAML can name, with its parameters.",
    "check": "Print what an experiment would train, and every mistake in it.",
    "config": "Print the resolved configuration, and where each value came from.",
    "diff": "Print what a configuration would change of a run, and whether it may.",
    "schema": "Print a JSON schema of the experiment YAML, for editors.",
    "train": "Train an experiment: here, as a rank of torchrun, or on Ray.",
    "online": "Train on demonstrations and on what robots collect meanwhile.",
    "evaluate": "Measure how often a checkpoint succeeds in a simulator.",
    "report": "Write one HTML page about a run, or several in comparison.",
    "model": "Look at model YAML files.",
    "data": "Look at datasets, convert other formats.",
    "new": "Begin a project, or a dataset, policy, trainer, loss, optimizer or block.",
}


class _Commands(Commands):
    """Imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which a user meets the commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; None where there is none of the name."""
        if cmd_name not in COMMANDS:
            return None
        with needs_training_libraries("This command"):
            module = importlib.import_module(f"trainer.commands.{cmd_name}")
        # `list` would hide Python's own in its module.
        command: click.Command = getattr(module, cmd_name, None) or getattr(module, f"{cmd_name}_command")
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the names that begin so, without importing the commands."""
        begun = [(name, text) for name, text in COMMANDS.items() if name.startswith(incomplete)]
        items = [CompletionItem(name, help=text) for name, text in begun]
        return [*items, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; where a library of the extra `train` is missing, say so in one sentence."""
        try:
            with needs_training_libraries("This command"), explained_usage():
                return super().invoke(ctx)
        except KeyboardInterrupt:  # click would say "Aborted!" and exit with 1, as if training had failed
            click.echo("\nStopped by Ctrl-C.", err=True)
            ctx.exit(128 + signal.SIGINT)
        except ModuleNotFoundError as error:
            if error.__cause__ is None:
                raise
            from trainer.commands.errors import UserError

            raise UserError(str(error)) from error


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done; 1 faults found, or training failed; 2 a mistake of yours, said in full; "
    "128 + n after signal n, with the run saved. `trainer COMMAND --help` shows an example.",
)
@click.version_option(__version__)
def main() -> None:
    """Train imitation-learning policies for robots from one YAML file."""


if __name__ == "__main__":
    main()
