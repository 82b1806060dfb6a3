"""How commands say what a user should change, and how a run ended."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import click


class UserError(click.ClickException):
    """One sentence on stderr and exit code 2."""

    exit_code = 2


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        code: what the process exits with.
        text: what the user reads; empty when another process says it.
    """

    code: int
    text: str

    def tell(self) -> None:
        """Say it, and exit if it is no success."""
        if self.text:
            click.echo(self.text, err=self.code != 0)
        if self.code != 0:
            raise SystemExit(self.code)


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


def user_message(error: BaseException) -> str | None:
    """Return what an error says to the user who can mend it; None where a traceback is what helps."""
    from model_constructor.errors import ConfigError as ModelConfigError

    from trainer.config.errors import ConfigError, ConfigLoadError
    from trainer.config.loader import describe_yaml_error
    from trainer.data.errors import DatasetError
    from trainer.engine.checkpoint import CheckpointError
    from trainer.engine.errors import TrainingFault
    from trainer.utils.files import disk_trouble

    if isinstance(error, ModelConfigError):
        return describe_yaml_error(error)
    if isinstance(error, (ConfigError, ConfigLoadError, CheckpointError, DatasetError, TrainingFault)):
        return str(error)
    if isinstance(error, OSError) and (trouble := disk_trouble(error)):
        return f"{trouble}; what was saved before is intact, and the run can go on from there"
    return None
