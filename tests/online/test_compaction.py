"""What was collected as a LeRobot dataset: the numbers that came in, swapped in whole, trained on later."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.collected import ACTION, STATE, collected, plain_facts
from helpers.dataset_samples import moving_picture
from helpers.run_folder import metrics

from trainer.data.dataset import WindowedDataset
from trainer.data.errors import DatasetError
from trainer.data.lerobot import LeRobotReader
from trainer.data.windows import Window
from trainer.offline_trainer import train
from trainer.online.compaction import Compaction
from trainer.online.episode import AUTO, EXPERT, HUMAN, Episode
from trainer.online.replay import ReplayBuffer

MODE = [AUTO] * 5 + [EXPERT] * 3 + [HUMAN] * 2


def described(folder: Path, facts: dict[str, Any] | None = None, **settings: Any) -> ReplayBuffer:
    replay = ReplayBuffer(folder, settings)
    replay.describe(facts or plain_facts())
    return replay


def episodes() -> list[Episode]:
    given = np.array(MODE) != AUTO
    return [
        collected(12, 0, success=False, start_seed=np.int64(41)),
        collected(10, 1, mode=MODE, labelled=given, version=4, task="push", source="robot"),
        collected(9, 2, version=5),
    ]


def wait_until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_dataset_has_the_numbers_that_were_collected(tmp_path: Path) -> None:
    replay, own = described(tmp_path), episodes()
    for episode in own:
        replay.add(episode)
    root = replay.compact()
    assert root == tmp_path / "dataset"
    reader = LeRobotReader(root)
    assert (reader.info.version, reader.fps) == ("v3.0", 10)
    columns = reader.columns([STATE, ACTION, "control_mode", "labelled", "policy_version", "episode_index"])
    for name in (STATE, ACTION):
        np.testing.assert_array_equal(columns[name], np.concatenate([e.columns[name] for e in own]))
    for name, dtype in (("control_mode", np.int8), ("labelled", np.bool_), ("policy_version", np.int64)):
        assert columns[name].dtype == dtype
        np.testing.assert_array_equal(columns[name][:, 0], np.concatenate([getattr(e, name) for e in own]))
    assert columns["episode_index"].tolist() == [0] * 12 + [1] * 10 + [2] * 9
    assert [reader.tasks[i] for i in reader.columns(["task_index"])["task_index"][[0, 12, 30]]] == [
        "reach",
        "push",
        "reach",
    ]
    said = json.loads((root / "meta/info.json").read_text())
    assert said["features"][STATE]["names"] == ["x", "y", "z"]
    assert said["trainer"]["collected"] == {
        "number": [0, 1, 2],
        "success": [False, True, True],
        "source": ["worker", "robot", "worker"],
        "start_seed": [41, None, None],
    }


def test_pictures_become_videos(tmp_path: Path) -> None:
    facts = plain_facts()
    facts["features"]["observation.images.top"] = {"dtype": "video", "shape": [32, 48, 3], "names": None}
    facts["windows"]["observation.images.top"] = [0]
    replay = described(tmp_path, facts)
    films = [moving_picture(8, 32, 48, seed) for seed in range(2)]
    for number, film in enumerate(films):
        episode = collected(8, number)
        replay.add(replace(episode, columns={**episode.columns, "observation.images.top": film}))
    dataset = WindowedDataset(LeRobotReader(replay.compact()), [Window("observation.images.top", (0,))])
    frames = dataset.__getitems__(np.arange(16))["observation.images.top"].numpy()
    sent = np.moveaxis(np.concatenate(films), -1, 1)
    assert frames.shape == sent.shape
    assert np.abs(frames.astype(float) - sent).mean() < 6  # a film loses a little, unlike the journal
    np.testing.assert_array_equal(replay.sample(40, (0,))["observation.images.top"].shape, (40, 3, 32, 48))


def test_a_later_offline_run_names_the_folder_and_trains(
    tiny_experiment: Callable[..., Path], tiny_dataset: Path, tmp_path: Path
) -> None:
    facts = WindowedDataset(
        LeRobotReader(tiny_dataset), [Window(STATE, (-1, 0)), Window(ACTION, (0, 1, 2, 3))]
    ).facts()
    replay = described(tmp_path / "replay", facts)
    rng = np.random.default_rng(0)
    for _ in range(3):
        replay.add({STATE: rng.normal(size=(20, 5)), ACTION: rng.normal(size=(20, 2)) + 7})
    root = replay.compact()
    run = train(tiny_experiment(lambda config: config["data"]["datamodule"]["params"].update(root=str(root))))
    kept = json.loads((run / "dataset.json").read_text())
    assert (kept["root"], kept["episodes"], kept["frames"]) == (str(root), 3, 60)
    assert len(metrics(run)) == 2 * (60 // 16)
    assert all(np.isfinite(line["total"]) for line in metrics(run))


def test_it_is_written_anew_beside_everything_else_and_grows(tmp_path: Path) -> None:
    replay, info = described(tmp_path, compact_every=3), tmp_path / "dataset/meta/info.json"

    def written() -> int:
        return json.loads(info.read_text())["total_episodes"] if info.is_file() else 0

    for number in range(2):
        replay.add(collected(8, number))
    assert written() == 0
    replay.add(collected(8, 2))
    wait_until(lambda: written() == 3)
    wait_until(lambda: replay._compaction.done == 3)
    for number in range(3, 6):
        replay.add(collected(8, number))
    wait_until(lambda: written() == 6)
    wait_until(lambda: replay._compaction.done == 6)
    again = described(tmp_path, compact_every=3)
    for number in range(6, 11):
        again.add(collected(8, number))
    assert again._compaction.done == 6  # it is due when they have doubled
    again.add(collected(8, 11))
    wait_until(lambda: again._compaction.done == 12)
    again.add(collected(8, 12))
    assert LeRobotReader(again.compact()).info.total_episodes == 13


def test_what_cannot_be_written_leaves_the_older_dataset_and_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    replay = described(tmp_path, compact_every=2)
    replay.add(collected(8, 0))
    root = replay.compact()
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    damaged = tmp_path / "journal/00000000.npz"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    for number in (1, 2):
        replay.add(collected(8, number))
    wait_until(lambda: "what was collected is not written as a dataset" in caplog.text)
    assert "00000000.npz: the episode is missing or damaged" in caplog.text
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "description.json", "journal"]
    assert replay.size() == (24, 24)


@pytest.mark.skipif(not hasattr(os, "getpriority"), reason="the system has no niceness")
def test_it_is_as_urgent_as_those_who_draw(tmp_path: Path) -> None:
    """Threads share the interpreter's lock: one that a busy machine does not run lets all others wait."""
    niceness = []

    def work() -> int:
        niceness.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return 1

    compaction = Compaction(work, 0)
    compaction.begin()
    wait_until(lambda: compaction.done)
    assert niceness == [os.getpriority(os.PRIO_PROCESS, threading.get_native_id())]


def test_nothing_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no episode was added"):
        described(tmp_path).compact()


def test_lerobot_opens_it(tmp_path: Path) -> None:
    pytest.importorskip("lerobot", reason="lerobot, which is to open it, is not installed")
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    replay, own = described(tmp_path), episodes()
    for episode in own:
        replay.add(episode)
    theirs = LeRobotDataset("local/collected", root=replay.compact())
    assert (len(theirs), theirs.num_episodes) == (31, 3)
    steps = [(episode, step) for episode in own for step in range(len(episode))]
    for frame, (episode, step) in enumerate(steps):
        found = theirs[frame]
        for name in (STATE, ACTION):
            np.testing.assert_array_equal(found[name], episode.columns[name][step])
        for name in ("control_mode", "labelled", "policy_version"):
            assert found[name] == getattr(episode, name)[step]
        assert found["task"] == episode.task
