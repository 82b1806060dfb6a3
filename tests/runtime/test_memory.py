"""The most memory that a process has taken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch

from trainer.offline_trainer import train
from trainer.runtime.memory import peak_memory


def test_the_peak_is_in_bytes_and_grows_with_what_is_taken() -> None:
    before = peak_memory(torch.device("cpu"))["host"]
    assert before > 20e6  # Python with torch
    taken = torch.ones(before // 4 + 25_000_000)  # float32: 100 MB beyond the present peak
    after = peak_memory(torch.device("cpu"))["host"]
    assert after - before > 90e6
    del taken
    assert peak_memory(torch.device("cpu"))["host"] >= after


def test_a_run_notes_it_and_keeps_the_larger_one(tiny_experiment: Callable[..., Path]) -> None:
    path = tiny_experiment()
    short = ["train.epoch=null"]
    run = train(path, [*short, "train.max_steps=3"])
    facts = json.loads((run / "run.json").read_text())
    assert facts["peak_memory"]["host"] > 20e6
    facts["peak_memory"]["host"] = 10**15
    (run / "run.json").write_text(json.dumps(facts))
    train(path, [*short, "train.max_steps=4"])
    assert json.loads((run / "run.json").read_text())["peak_memory"]["host"] == 10**15
