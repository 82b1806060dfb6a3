"""Stopping on purpose: the step is finished, the run is saved, and the exit code says what happened."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from types import FrameType, TracebackType
from typing import Any

from trainer.runtime import AgreedEnd, Runtime
from trainer.runtime.signals import STOP_SIGNALS, ignored_on_purpose
from trainer.utils.log import write_at_once


class Stopped(AgreedEnd):
    """A run that ended early, by a signal, with everything saved.

    Attributes:
        exit_code: 128 plus the number of the signal, as shells have it.
        before_training: it was still being put together, so there was nothing to save.
    """

    def __init__(self, number: int, before_training: bool = False) -> None:
        when = " before training began" if before_training else ""
        super().__init__(f"stopped by {signal.Signals(number).name}{when}")
        self.exit_code = 128 + number
        self.before_training = before_training


class WaitEnded(Exception):
    """A source of batches has given up waiting for samples, because the run is asked to stop."""


_asked = 0
_request: StopRequest | None = None


def stop_asked() -> int:
    """Return the signal on which the run of this process is to stop, or 0.

    For whoever waits long for something within a step; a source of batches then raises `WaitEnded`.
    """
    return _asked if _request is None else _request.number


def ask_to_stop(number: int) -> None:
    """Stop the run of this process as if a signal had come; one does not where we are not the main thread.

    Args:
        number: of the signal; 0 takes the request back.
    """
    global _asked
    _asked = number


def stop_before_training(runtime: Runtime) -> None:
    """End a run that is still being put together, if it is asked to stop; all ranks meet.

    Raises:
        Stopped: it is.
    """
    number = runtime.largest(stop_asked())
    if number:
        raise Stopped(number, before_training=True)


class StopRequest:
    """Notes the first SIGTERM, SIGINT or SIGHUP while the block runs; the second ends the process at once.

    Ending at once harms nothing: a checkpoint that is being written is not there until it is whole. Loader
    workers go as well, which would not notice it in the middle of a sample.

    Args:
        runtime: this rank.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._process = os.getpid()
        self._number = 0
        self._ending = False
        self._before: dict[int, Any] = {}

    @property
    def number(self) -> int:
        """The signal that came, or 0."""
        return self._number or _asked

    def __enter__(self) -> StopRequest:
        global _request
        _request = self
        with contextlib.suppress(ValueError):  # not in the main thread: whoever runs us there handles signals
            for number in STOP_SIGNALS:
                if not ignored_on_purpose(number):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _request
        _request = None
        failing = error is not None and not isinstance(error, AgreedEnd)
        # A collective may fail a moment before it is known that a rank is lost, and torchrun is as quick.
        self._ending = self._runtime.rank_is_lost or (failing and self._runtime.distributed)
        if not self._ending:
            self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a process of the loader: it serves until the step is done
        if self._ending or self._runtime.rank_is_lost:
            return  # torchrun asks the others to end; they are about to, and say why
        if self._number:
            self._say("Stopped at once; what was saved before is whole.")
            with contextlib.suppress(Exception):
                for worker in multiprocessing.active_children():
                    worker.kill()
            os._exit(128 + number)
        self._number = number
        self._say("Stopping after this step; a second signal stops at once.")

    def _say(self, sentence: str) -> None:
        if self._runtime.is_main:
            write_at_once(f"\n{sentence}\n")

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
