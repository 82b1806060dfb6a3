"""Progress as a terminal shows it, and as a log file keeps it."""

from __future__ import annotations

import io
import itertools

import pytest

from trainer.utils.progress import progress_bar


class Terminal(io.StringIO):
    """A text stream that says that it is a terminal."""

    def isatty(self) -> bool:
        """Return True."""
        return True


def test_a_log_file_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    with progress_bar(2, "outer", "step") as outer:
        outer.update()
        for leave in (True, False):
            with progress_bar(1, "inner", "step", leave=leave) as inner:
                inner.update()
        outer.update()
    text = stream.getvalue()
    assert not set(text) & {"\r", "\x1b"}
    lines = text.splitlines()
    assert all(lines), "no line is empty"
    assert [line for line, after in itertools.pairwise(lines) if line == after] == []
    assert lines[-1].startswith("outer: 100%|==========| 2/2")
    assert any(line.startswith("inner: 100%") for line in lines)


def test_a_terminal_gets_a_bar_that_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    with progress_bar(2, "bar", "step") as bar:
        bar.update(2)
    assert stream.getvalue().startswith("\rbar:")
