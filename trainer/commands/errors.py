"""How commands say what a user should change."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import click

from trainer.engine.exit_messages import user_message


class UserError(click.ClickException):
    """One sentence on stderr and exit code 2."""

    exit_code = 2


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Turn the errors that a user can mend into `UserError`; everything else keeps its traceback."""
    try:
        yield
    except Exception as error:
        message = user_message(error)
        if message is None:
            raise
        raise UserError(message) from error
