"""Recording: reproducible, whole or not at all, and kept where it is there already."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from trainer.commands.record import record as record_command
from trainer.data.lerobot import LeRobotReader
from trainer.evaluation import demonstrations
from trainer.evaluation import record as record_module
from trainer.evaluation.demonstrations import STEPS_AFTER_SUCCESS
from trainer.evaluation.record import record
from trainer.evaluation.simulators import make_simulator
from trainer.evaluation.starts import start_seeds

pytest.importorskip("metaworld")
pytest.importorskip("gym_pusht")

ENV = "metaworld/push-v3"


def _hashes(root: Path) -> dict[str, str]:
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_equal_arguments_give_equal_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        record(ENV, 4, seed, tmp_path / name, progress=False)
    assert _hashes(tmp_path / "a") == _hashes(tmp_path / "b")
    assert _hashes(tmp_path / "a") != _hashes(tmp_path / "c")


def test_a_recording_replays_to_its_own_states(tmp_path: Path) -> None:
    summary = record(ENV, 2, 0, tmp_path / "set", progress=False)
    info = json.loads((tmp_path / "set" / "meta" / "info.json").read_text())
    assert (info["fps"], info["total_episodes"], info["robot_type"]) == (80, 2, "metaworld")
    made = info["trainer"]
    assert (made["recorded_with"], made["seed"], made["attempts"]) == (ENV, 0, summary.attempts)
    assert set(made["start_seeds"]) <= set(start_seeds(0, summary.attempts, "recording"))
    reader = LeRobotReader(tmp_path / "set")
    columns = reader.columns(["observation.state", "action"])
    simulator = make_simulator(ENV)
    row = 0
    for start, length in zip(made["start_seeds"], reader.episodes.columns["length"], strict=True):
        observation, successes = simulator.reset(start), []
        for _ in range(length):
            np.testing.assert_array_equal(columns["observation.state"][row], observation["observation.state"])
            step = simulator.step(columns["action"][row])
            observation = step.observation
            successes.append(step.success)
            row += 1
        assert successes.index(True) == length - 1 - STEPS_AFTER_SUCCESS
    assert row == summary.frames


def test_failed_episodes_are_counted_and_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = demonstrations.demonstrate_once
    starts = start_seeds(0, 4, "recording")

    def fails_at_second(simulator, start, features):
        return None if start == starts[1] else original(simulator, start, features)

    monkeypatch.setattr(demonstrations, "demonstrate_once", fails_at_second)
    summary = record(ENV, 3, 0, tmp_path / "set", progress=False)
    assert (summary.episodes, summary.attempts) == (3, 4)
    assert "failed at 1 of 4 starts" in summary.summary()
    info = json.loads((tmp_path / "set" / "meta" / "info.json").read_text())
    assert info["trainer"]["start_seeds"] == [starts[0], starts[2], starts[3]]


@pytest.mark.parametrize("when", ["while playing", "while writing"])
def test_an_interrupted_recording_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    calls = 0

    def interrupt(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    if when == "while playing":
        original = demonstrations.demonstrate_once
        monkeypatch.setattr(demonstrations, "demonstrate_once", interrupt)
    else:
        original = record_module.LeRobotWriter.add_episode
        monkeypatch.setattr(record_module.LeRobotWriter, "add_episode", interrupt)
    with pytest.raises(KeyboardInterrupt):
        record(ENV, 3, 0, tmp_path / "set", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_is_kept_refused_or_replaced(tmp_path: Path) -> None:
    root = tmp_path / "set"
    first = record(ENV, 2, 0, root, progress=False)
    before = _hashes(root)
    again = record(ENV, 2, 0, root, progress=False)
    assert (again.kept, again.frames) == (True, first.frames)
    assert "nothing was recorded" in again.summary()
    with pytest.raises(ValueError, match=r"already holds another dataset \(2 episodes of .*--overwrite"):
        record(ENV, 3, 0, root, progress=False)
    assert _hashes(root) == before
    assert record(ENV, 3, 0, root, progress=False, overwrite=True).episodes == 3
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_what_is_no_dataset_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="no LeRobot dataset"):
        record(ENV, 1, 0, tmp_path, progress=False, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_the_command(tmp_path: Path) -> None:
    arguments = ["--env", ENV, "--episodes", "1", "--out", str(tmp_path / "set")]
    good = CliRunner().invoke(record_command, arguments)
    assert good.exit_code == 0
    assert "Recorded 1 demonstrations of metaworld/push-v3" in good.stdout
    for change, message in (
        (["--env", "pusht", "--out", str(tmp_path / "p")], "pusht has no scripted expert"),
        (["--env", "metaworld/pusch-v3", "--out", str(tmp_path / "p")], "did you mean 'push-v3'"),
        (["--seed", "7"], "already holds another dataset"),
    ):
        bad = CliRunner().invoke(record_command, arguments + change)
        assert bad.exit_code == 2
        assert message in bad.stderr
        assert bad.stderr.count("\n") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="cannot be made"):
        record(ENV, 1, 0, tmp_path / "set", progress=False)
