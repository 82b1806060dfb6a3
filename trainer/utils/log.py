"""What a run says on stderr: plain sentences of rank 0, whoever listens, or nobody.

Every module says `log.info("Taking up …")` or `log.warning("…")`, on every rank; the filter keeps rank 0's.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import sys
from typing import Any, TextIO

EVERY_RANK = {"every_rank": True}
"""`log.error(…, extra=EVERY_RANK)` is shown on whatever rank it is said."""

log = logging.getLogger("trainer")

# A progress bar may stand on the line of an error.
_PREFIXES = {logging.WARNING: "Warning: ", logging.ERROR: "\nError: "}


class ForgivingStream(io.TextIOBase):
    """A stream for text that may get lost: who writes to it need not care whether anybody listens.

    A stream that is not there, is closed, whose disk is full or whose reader has gone takes everything and
    keeps what it can.

    Args:
        stream: where the text goes; None where there is no such stream.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def fileno(self) -> int:
        """Return the descriptor of the stream."""
        if self._stream is None:
            raise io.UnsupportedOperation("there is no stream")
        return self._stream.fileno()

    def writable(self) -> bool:
        """Return True."""
        return True

    def isatty(self) -> bool:
        """Say whether a terminal shows the text."""
        try:
            return self._stream is not None and self._stream.isatty()
        except ValueError:
            return False

    def write(self, text: str) -> int:
        """Write text, or lose it."""
        if self._stream is not None:
            try:
                self._stream.write(text)
            except (OSError, ValueError) as error:
                self._give_up_on(error)
        return len(text)

    def flush(self) -> None:
        """Write what was kept, or lose it."""
        if self._stream is not None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._give_up_on(error)

    def _give_up_on(self, error: Exception) -> None:
        """Send what comes, and what is still in buffers, to nowhere once the reader is gone."""
        if isinstance(error, OSError) and error.errno == errno.EPIPE:
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self.fileno())
                os.close(nowhere)


class _SentencesOnStderr(logging.Handler):
    """Writes a sentence a line to whatever `sys.stderr` is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        stream = ForgivingStream(sys.stderr)
        stream.write(self.format(record) + "\n")
        stream.flush()

    def format(self, record: logging.LogRecord) -> str:
        return _PREFIXES.get(record.levelno, "") + record.getMessage()


class _OfMainRank(logging.Filter):
    """Lets pass what rank 0 says, and what has to be heard from every rank."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank

    def filter(self, record: logging.LogRecord) -> bool:
        return self.rank == 0 or getattr(record, "every_rank", False)


def log_to_stderr(rank: int = 0) -> None:
    """Show what the logger `trainer` is told, once, as plain sentences on stderr.

    Args:
        rank: of this process; others than rank 0 say only what `EVERY_RANK` marks.
    """
    for handler in [h for h in log.handlers if isinstance(h, _SentencesOnStderr)]:
        log.removeHandler(handler)
    handler = _SentencesOnStderr()
    handler.addFilter(_OfMainRank(rank))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


def let_nobody_listen() -> None:
    """Make this process independent of who reads its stdout and stderr; to be called before anything else.

    The streams forgive, also in libraries and tracebacks. A closed descriptor 0, 1 or 2 is opened on nothing,
    as the next file that is opened would get its number, and with it whatever is written to stderr.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, ForgivingStream):
            setattr(sys, name, ForgivingStream(stream))


def write_at_once(text: str) -> None:
    """Write to stderr past all buffers, as where a signal may have interrupted any printing."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.write(sys.stderr.fileno(), text.encode())
