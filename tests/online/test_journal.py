"""The journal: lossless, whole or not there, and a damaged episode is not taken for another."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.collected import CAMERAS, collected
from helpers.runs import ROOT, environment

from trainer.data.lerobot import LeRobotReader
from trainer.online.episode import EXPERT
from trainer.online.journal import Journal, JournalError
from trainer.online.replay import ReplayBuffer


def test_an_episode_comes_back_as_it_was(tmp_path: Path) -> None:
    episode = collected(
        7, cameras=True, mode=EXPERT, labelled=True, success=False, task="pick «it»", start_seed=5
    )
    Journal(tmp_path).append(3, episode, "a key")
    number, key, read = Journal(tmp_path).read(3)
    assert (number, key) == (3, "a key")
    assert list(read.columns) == list(episode.columns)
    for name, column in episode.columns.items():
        assert read.columns[name].dtype == column.dtype
        np.testing.assert_array_equal(read.columns[name], column)
    for name in ("control_mode", "labelled", "policy_version"):
        np.testing.assert_array_equal(getattr(read, name), getattr(episode, name))
    assert (read.task, read.success, read.source, read.start_seed) == ("pick «it»", False, "worker", 5)


def test_without_its_columns_the_rest_is_there(tmp_path: Path) -> None:
    Journal(tmp_path).append(0, collected(7, labelled=True))
    episode = Journal(tmp_path).read(0, columns=False).episode
    assert (dict(episode.columns), len(episode), episode.labels) == ({}, 7, 7)


def test_a_file_that_was_being_written_is_not_there(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(0, collected())
    (tmp_path / ".00000001.npz.123.incomplete").write_bytes((tmp_path / "00000000.npz").read_bytes()[:100])
    assert Journal(tmp_path).numbers() == [0]
    assert [path.name for path in tmp_path.iterdir()] == ["00000000.npz"]


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_a_changed_byte_is_noticed(tmp_path: Path, part: float) -> None:
    journal = Journal(tmp_path)
    journal.append(0, collected(20, cameras=True))
    path = tmp_path / "00000000.npz"
    content = bytearray(path.read_bytes())
    begin = content.find(CAMERAS_BYTES := next(iter(CAMERAS)).encode()) + 2 * len(CAMERAS_BYTES)
    content[begin + int(part * 20 * 3 * 8 * 12 * 0.9) + 100] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(JournalError, match=r"00000000\.npz: the episode is missing or damaged"):
        journal.read(0)


@pytest.mark.parametrize("left", [0, 10, -1000, -1])
def test_a_cut_file_is_noticed(tmp_path: Path, left: int) -> None:
    journal = Journal(tmp_path)
    journal.append(0, collected(20))
    path = tmp_path / "00000000.npz"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(JournalError, match=r"00000000\.npz: the episode is missing or damaged"):
        journal.read(0)


def test_two_who_write_are_noticed(tmp_path: Path) -> None:
    one, other = Journal(tmp_path), Journal(tmp_path)
    one.append(0, collected(seed=1))
    with pytest.raises(JournalError, match="two replay buffers write to one folder"):
        other.append(0, collected(seed=2))
    assert one.read(0).episode.columns["action"][0, 0] == collected(seed=1).columns["action"][0, 0]


def test_a_disk_that_is_full_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(
        JournalError, match=r"cannot be written \(No space left on device\), so the episode does"
    ):
        journal.append(0, collected())
    assert list(tmp_path.iterdir()) == []


ADDING = """
import sys
from helpers.collected import collected, plain_facts
from trainer.online.replay import ReplayBuffer
replay = ReplayBuffer(sys.argv[1], {"compact_every": 10})
replay.describe(plain_facts())
for number in range(replay.counts().episodes, 10_000):
    print(replay.add(collected(8, number), key=number), flush=True)
"""


@pytest.mark.slow
def test_killed_at_any_moment_every_episode_that_was_accepted_is_there(tmp_path: Path) -> None:
    accepted: list[int] = []
    for pause in np.random.default_rng(0).uniform(0, 0.4, 6):
        command = [sys.executable, "-c", ADDING, str(tmp_path)]
        env = {**environment(), "PYTHONPATH": os.pathsep.join(sys.path)}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, cwd=ROOT) as process:
            assert process.stdout is not None
            accepted.append(int(process.stdout.readline()))
            time.sleep(pause)
            process.kill()
            accepted += [int(line) for line in process.stdout if line.endswith("\n")]
    replay = ReplayBuffer(tmp_path)
    # What was on its way may be there too, but nothing twice.
    assert accepted == sorted(set(accepted))
    assert replay.counts().episodes == len(replay._journal.numbers())
    assert set(accepted) <= set(replay._journal.numbers())
    for number in replay._journal.numbers():
        episode = replay._journal.read(number).episode
        np.testing.assert_array_equal(episode.columns["action"], collected(8, number).columns["action"])
    assert LeRobotReader(replay.compact()).info.total_episodes == replay.counts().episodes
    assert not list(tmp_path.rglob("*incomplete*"))
