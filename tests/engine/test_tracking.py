"""Metrics on disk and in the tracker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.engine.tracking import Tracker, forget_from, start_wandb
from trainer.runtime import Runtime

ALONE = Runtime(torch.device("cpu"))


class Recorder:
    """Stands where a Weights & Biases run would stand."""

    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.finished = False

    def log(self, values: dict[str, Any], step: int) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished = True


def test_every_step_is_kept_and_written_once_a_window(tmp_path: Path) -> None:
    recorder = Recorder()
    tracker = Tracker(tmp_path, ALONE, every=3, wandb_run=recorder)
    for step in range(4):
        tracker.record(step, {"total": torch.tensor(step / 2), "lr": 0.1}, {"epoch": step / 10})
        written = (tmp_path / "metrics.jsonl").exists()
        assert written == (step >= 2)
    assert tracker.last == {"step": 2, "epoch": 0.2, "lr": 0.1, "total": 1.0}
    tracker.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    assert [line["total"] for line in lines] == [0.0, 0.5, 1.0, 1.5]
    assert recorder.logged[3] == (3, {"epoch": pytest.approx(0.3), "lr": 0.1, "total": 1.5})
    assert recorder.finished


def test_a_run_that_is_taken_up_forgets_what_came_later_and_lines_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n{"step": 1}\n{"step": 2}\n{"step": 3, "tot')
    forget_from(path, 2)
    assert path.read_text() == '{"step": 0}\n{"step": 1}\n'
    forget_from(tmp_path / "gone.jsonl", 2)


def test_without_a_key_weights_and_biases_logs_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    run = start_wandb("project", "name", {"a": 1}, tmp_path)
    run.log({"total": 1.0}, step=0)
    run.finish()
    assert list((tmp_path / "wandb").glob("offline-run-*"))


def test_it_can_be_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert start_wandb("project", "name", {}, tmp_path) is None
