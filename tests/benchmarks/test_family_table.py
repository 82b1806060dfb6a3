"""The table of policies: what it calls them, what it measures again, and how it says it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import family_table
import pytest
from family_table import Run, measure, name_of, processor_seconds, table

RESULTS = {
    "success_rate": 0.9,
    "success_interval": [0.786, 0.957],
    "mean_score": 0.9,
    "score_interval": [0.786, 0.957],
}


def test_a_small_experiment_is_called_by_its_folders() -> None:
    assert name_of(Path("a/naive_flow_matching_policy/exp2/small.yaml")) == "naive_flow_matching_policy-exp2"
    assert name_of(Path("examples/configs/pusht_state.yaml")) == "pusht_state"


def test_the_table_has_intervals_and_leaves_out_what_was_not_measured() -> None:
    whole = Run("act", 0, 150.0, 90.0, RESULTS, 1_150_000, 4.25)
    lines = table([whole, Run("mip", 1)]).splitlines()
    assert lines[2] == (
        "| act | 0 | 1.15 M | 2.5 min | 1.5 min | 4.2 | 90% (79% to 96%) | 0.900 (0.786 to 0.957) |"
    )
    assert lines[3] == "| mip | 1 | – | – | – | – | – | – |"


def test_time_is_that_of_the_processor_and_a_failure_names_the_output(tmp_path: Path) -> None:
    log = tmp_path / "log"
    idle = processor_seconds([sys.executable, "-c", "import time; time.sleep(0.5); print('here')"], log)
    assert 0 < idle < 0.5
    assert log.read_text() == "here\n"
    with pytest.raises(SystemExit, match=f"ended with 3; its output is in {log}"):
        processor_seconds([sys.executable, "-c", "raise SystemExit(3)"], log)


def test_what_is_there_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = argparse.Namespace(
        out=tmp_path, env="pusht", episodes=500, start_seed=7, set=["train.epoch=1"], configs=[], seeds=[]
    )
    commands = []

    def pretend(command: list[str], log: Path) -> float:
        commands.append(command)
        if "evaluate" in command:
            target = Path(command[command.index("--out") + 1])
            target.mkdir()
            (target / "results.json").write_text(json.dumps(RESULTS))
        return 60.0

    monkeypatch.setattr(family_table, "processor_seconds", pretend)
    monkeypatch.setattr(family_table, "measure_deployed", lambda folder: (1000, 2.0))
    first = measure(Path("x/act.yaml"), 3, asked)
    train, evaluate = commands
    assert {"seed=3", "train.epoch=1", f"train.save_dir={tmp_path / 'act-seed3'}"} <= set(train)
    assert evaluate[evaluate.index("--episodes") + 1] == "500"
    assert evaluate[evaluate.index("--seed") + 1] == "7"
    assert measure(Path("x/act.yaml"), 3, asked) == first == Run("act", 3, 60.0, 60.0, RESULTS, 1000, 2.0)
    assert len(commands) == 2
