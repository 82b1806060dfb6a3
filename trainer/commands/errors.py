"""How commands say what a user should change."""

from __future__ import annotations

import click


class UserError(click.ClickException):
    """One sentence on stderr and exit code 2."""

    exit_code = 2
