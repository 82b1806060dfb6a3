"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
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
