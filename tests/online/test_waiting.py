"""Waiting that is neither silent nor deaf to a signal."""

from __future__ import annotations

import logging
import signal

import pytest

from trainer.engine.stop import WaitEnded, ask_to_stop
from trainer.online import waiting


def test_a_long_wait_says_why_and_when_it_is_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(waiting, "_SAID_AFTER_SECONDS", -1.0)
    reasons = iter(["12 of 64 windows are there", "40 of 64 windows are there", None])
    with caplog.at_level(logging.INFO):
        waiting.wait_while(lambda: next(reasons), poll_seconds=0.0)
    assert caplog.messages == [
        "The learner waits: 12 of 64 windows are there.",
        "The learner goes on after 0 s.",
    ]


def test_a_short_wait_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    reasons = iter(["nothing is there", None])
    with caplog.at_level(logging.INFO):
        waiting.wait_while(lambda: next(reasons), poll_seconds=0.0)
    assert caplog.messages == []


def test_a_signal_ends_a_wait() -> None:
    ask_to_stop(signal.SIGTERM)
    try:
        with pytest.raises(WaitEnded, match="nothing is there"):
            waiting.wait_while(lambda: "nothing is there", poll_seconds=0.0)
    finally:
        ask_to_stop(0)
