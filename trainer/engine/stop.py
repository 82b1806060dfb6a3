"""Stopping on purpose: the step is finished, the run is saved, and the exit code says what happened."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any

from trainer.runtime import environment_rank

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):
    """A run that ended early, by a signal, with everything saved.

    Attributes:
        exit_code: 128 plus the number of the signal, as shells have it.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class StopRequest:
    """Notes the first SIGTERM or SIGINT while the block runs; the second one ends the process as usual.

    Attributes:
        number: the signal that came, or 0.
    """

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        try:
            self._before = {s: signal.signal(s, self._note) for s in SIGNALS}
        except ValueError:
            self._before = {}  # not in the main thread: whoever runs us there handles signals
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self._restore()
        if environment_rank() == 0:
            # A signal handler may interrupt any printing, so it writes past all buffers.
            os.write(2, b"\nStopping after this step; the same signal again stops at once.\n")

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
