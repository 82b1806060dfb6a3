"""Options that several commands share."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


class Commands(click.Group):
    """Names the nearest command where there is none of the name that was asked for."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that was asked for."""
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-"):
            from model_constructor import did_you_mean

            meant = _KNOWN_ELSEWHERE.get(args[0]) or did_you_mean(args[0], known)
            ctx.fail(f"there is no command '{args[0]}'; {meant}")
        return super().resolve_command(ctx, args)


_GOES_ON = "`trainer train X.yaml` goes on with the run in its train.save_dir by itself"
_KNOWN_ELSEWHERE = {"resume": _GOES_ON, "continue": _GOES_ON, "info": "did you mean 'inspect'?"}
"""Commands and options that users know from elsewhere, and what to do."""


@contextlib.contextmanager
def explained_usage() -> Iterator[None]:
    """Say of what was written for a value of the YAML how it is overridden."""
    try:
        yield
    except click.NoSuchOption as error:
        if not _takes_overrides(error):
            raise
        name = error.option_name.lstrip("-").replace("-", "_")
        how = _KNOWN_ELSEWHERE.get(name) or _how_to_set(name)
        raise click.UsageError(f"there is no option {error.option_name}; {how}", error.ctx) from error
    except click.MissingParameter as error:
        if error.param is None or error.param.name != "env":
            raise
        raise click.UsageError(f"--env is missing; {_ENVS}", error.ctx) from error
    except click.UsageError as error:
        if not (_takes_overrides(error) and "extra argument" in error.message and "=" in error.message):
            raise
        text = f"{error.message}: write --set PATH=VALUE without spaces"
        raise click.UsageError(text, error.ctx) from error


_ENVS = "simulators are metaworld/TASK, pusht, and those of plugins: `trainer list simulator`"


def _takes_overrides(error: click.UsageError) -> bool:
    return error.ctx is not None and any(one.name == "overrides" for one in error.ctx.command.params)


def _how_to_set(name: str) -> str:
    """Return how a key of the YAML is overridden that was written as an option."""
    from trainer.config.schemas import ExperimentConfig
    from trainer.config.validated import hint_of_unknown

    place = re.search(r"[`'](.+)[`']", hint_of_unknown(name, (), ExperimentConfig) or "")
    how = "values of the YAML are overridden by --set PATH=VALUE"
    return f"did you mean --set {place[1]}=VALUE?" if place else how


def overrides_option(command: F) -> F:
    """Add `--set PATH=VALUE`, as `overrides`."""
    option = click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="PATH=VALUE",
        help="Override a value of the YAML, such as train.epoch=3 or 'train.callbacks[0].params.patience=5'.",
    )
    return option(command)


def ray_options(prefix: str = "") -> Callable[[F], F]:
    """Return what adds `--num-workers`, `--address`, `--max-failures` and `--cpus-per-worker`.

    Those that were not given are None: what then holds, `train_on_ray` says.

    Args:
        prefix: stands before each help text.
    """
    helps = {
        "--num-workers": "number of ranks that train.  [default: 1]",
        "--address": "a running cluster (auto, host:port, ray://host:port); else one is started.",
        "--max-failures": "how often to go on from the last checkpoint when a rank is lost.  [default: 3]",
        "--cpus-per-worker": "CPU cores of a rank, and its threads.",
    }
    least = {"--num-workers": 1, "--max-failures": 0, "--cpus-per-worker": 1}

    def add(command: F) -> F:
        for name, text in reversed(helps.items()):
            kind = click.IntRange(min=least[name]) if name in least else None
            text = f"{prefix}{text}"
            command = click.option(name, type=kind, help=text[0].upper() + text[1:])(command)
        return command

    return add


def given_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a command's options that were given."""
    return {name: value for name, value in options.items() if value is not None}
