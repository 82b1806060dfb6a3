"""How commands say what a user should change."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import click


class UserError(click.ClickException):
    """One sentence on stderr and exit code 2."""

    exit_code = 2


@contextlib.contextmanager
def user_errors(quiet: bool = False) -> Iterator[None]:
    """Turn the errors that a user can mend into `UserError`; everything else keeps its traceback.

    Args:
        quiet: exit with the same code and say nothing, because another rank says it.
    """
    from model_constructor.errors import ConfigError as ModelConfigError

    from trainer.config.errors import ConfigError, ConfigLoadError
    from trainer.config.loader import describe_yaml_error
    from trainer.data.errors import DatasetError
    from trainer.engine.checkpoint import CheckpointError

    try:
        yield
    except ModelConfigError as error:
        if quiet:
            raise SystemExit(UserError.exit_code) from None
        raise UserError(describe_yaml_error(error)) from error
    except (ConfigError, ConfigLoadError, CheckpointError, DatasetError) as error:
        if quiet:
            raise SystemExit(UserError.exit_code) from None
        raise UserError(str(error)) from error
