"""The signals that ask a run to stop."""

from __future__ import annotations

import signal

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""From a scheduler, from the keyboard, from a terminal that closes."""


def ignored_on_purpose(number: int) -> bool:
    """Say whether who started this process wants a signal to do nothing, as `nohup` does with SIGHUP."""
    return number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN
