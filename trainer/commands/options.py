"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


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
