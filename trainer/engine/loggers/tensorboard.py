"""TensorBoard: event files in the run folder."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from trainer.registry import LOGGER_REGISTRY
from trainer.templates import RunIdentity

_EVENT_FILE = r"events\.out\.tfevents\.(\d+)\."


@LOGGER_REGISTRY.register("tensorboard")
class TensorBoardLogger:
    """Writes scalars to `<run>/<folder>`, where `tensorboard --logdir` finds them.

    Args:
        folder: name of the folder below the run folder.

    Raises:
        ValueError: tensorboard is not installed.
    """

    def __init__(self, folder: str = "tensorboard") -> None:
        try:
            import tensorboard  # noqa: F401
        except ImportError:
            raise ValueError(
                "tensorboard is not installed; pip install 'trainer-il[tensorboard]', or take it out of "
                "train.loggers"
            ) from None
        self._file: BinaryIO | None = None
        self.folder = folder

    def start(self, run: RunIdentity) -> int:
        """Open a new event file; TensorBoard forgets what an earlier one has from `first_step` on.

        Where there is no earlier one, as in a folder that was deleted, it gets all steps so far.
        """
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        folder = run.folder / self.folder
        folder.mkdir(parents=True, exist_ok=True)
        known = run.first_step - 1 if _times(folder) else -1
        self._file = (folder / _next_name(folder)).open("wb")
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        # Also from 0 on: a run that was killed before its first checkpoint has left steps, too.
        again = SessionLog(status=SessionLog.START)
        self._write(Event(wall_time=time.time(), step=run.first_step, session_log=again))
        self._file.flush()
        return known

    def log(self, rows: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Write numbers and have them on disk."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        assert self._file is not None, "a logger is started first"
        for step, values in rows:
            scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
            self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=scalars)))
        self._file.flush()

    def finish(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _write(self, event: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        RecordWriter(self._file).write(event.SerializeToString())


def _next_name(folder: Path) -> str:
    """Return the name of a new event file: TensorBoard reads them by their names, which begin with a time.

    A clock that went back must not put what comes later before what came earlier.
    """
    newest = max([int(time.time()), *(told + 1 for told in _times(folder))])
    return f"events.out.tfevents.{newest:010d}.{socket.gethostname()}"


def _times(folder: Path) -> list[int]:
    """Return the times in the names of the event files."""
    return [int(m[1]) for path in folder.iterdir() if (m := re.match(_EVENT_FILE, path.name))]
