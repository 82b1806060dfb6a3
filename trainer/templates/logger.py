"""What a logger plugin provides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class RunIdentity:
    """The run whose numbers a logger gets.

    Attributes:
        folder: the run folder.
        project: what runs are grouped by: the task.
        name: name of the run.
        config: the whole configuration with its defaults.
        id: the same whenever this run is taken up again.
        first_step: the first step that this process logs; earlier ones were logged before. It is the last one
            before this process begins, for what was measured after it may be missing.
    """

    folder: Path
    project: str
    name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""
    first_step: int = 0


@runtime_checkable
class Logger(Protocol):
    """Takes the numbers of a run elsewhere; it lives on rank 0.

    The constructor takes the `params` of its entry under `train.loggers`.
    """

    def start(self, run: RunIdentity) -> int:
        """Begin, or go on with a run that was interrupted.

        Returns:
            The last step that is there already, or -1. Everything after it is logged again, so that after a
            restart nothing is missing and nothing is there twice.
        """
        ...

    def log(self, rows: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Take steps and their numbers; steps never go back, and one may come more than once."""
        ...

    def finish(self) -> None:
        """Write what is left."""
        ...
