"""How a run ended, as its user reads it."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from trainer.utils.log import ForgivingStream


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
            stream = ForgivingStream(sys.stdout if self.code == 0 else sys.stderr)
            stream.write(f"{self.text}\n")
            stream.flush()
        if self.code != 0:
            raise SystemExit(self.code)


def user_message(error: BaseException) -> str | None:
    """Return what an error says to the user who can mend it; None where a traceback is what helps."""
    from model_constructor import ConfigError as ModelConfigError

    from trainer.checkpoint.folder import CheckpointError
    from trainer.config.errors import ConfigError, ConfigLoadError, yaml_issues
    from trainer.data.errors import DatasetError
    from trainer.registry import PluginError
    from trainer.utils.errors import TrainingFault, UsageError
    from trainer.utils.files import disk_trouble

    if isinstance(error, ModelConfigError):
        return "\n".join(issue.shown() for issue in yaml_issues(error))
    meant_for_users = (
        ConfigError,
        ConfigLoadError,
        CheckpointError,
        DatasetError,
        PluginError,
        TrainingFault,
        UsageError,
    )
    if isinstance(error, meant_for_users):
        return str(error)
    if isinstance(error, OSError) and (trouble := disk_trouble(error)):
        return f"{trouble}; what was saved before is intact, and the run can go on from there"
    return None
