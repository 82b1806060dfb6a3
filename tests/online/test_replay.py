"""What comes into the replay buffer, what is drawn, and what is there again after it was lost."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.collected import (
    ACTION,
    CAMERAS,
    STATE,
    collected,
    demonstrations,
    plain_facts,
    seeing_facts,
    whole_dataset_episodes,
)

from trainer.online.counts import Outcomes
from trainer.online.episode import AUTO, EXPERT, HUMAN, EpisodeError
from trainer.online.journal import JournalError
from trainer.online.replay import ReplayBuffer
from trainer.utils.errors import UsageError


def buffer(folder: Path, facts: dict[str, Any] | None = None, **options: Any) -> ReplayBuffer:
    made = ReplayBuffer(folder, **options)
    made.describe(facts or plain_facts())
    return made


def all_samples(replay: ReplayBuffer) -> dict[str, Any]:
    """Return the window of every step in memory."""
    contents = replay._described().contents
    return contents.samples(contents.begin + np.arange(contents.steps))


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert list(one) == list(other)
    for key, value in one.items():
        if isinstance(value, list):
            assert value == other[key]
            continue
        array = np.asarray(other[key])
        assert value.dtype == array.dtype, key
        np.testing.assert_array_equal(value, array, err_msg=key)


def test_samples_are_those_of_a_dataset_of_the_same_episodes(tmp_path: Path) -> None:
    dataset = demonstrations(tmp_path / "demonstrations")
    replay = buffer(tmp_path / "replay", dataset.facts())
    for columns in whole_dataset_episodes():
        replay.add(columns)
    same(all_samples(replay), dataset.__getitems__(np.arange(len(dataset))))


def test_pictures_are_those_that_were_sent_without_loss_and_also_when_read_again(tmp_path: Path) -> None:
    episodes = [collected(6, seed, cameras=True) for seed in range(3)]
    top, wrist = CAMERAS
    first = buffer(tmp_path, seeing_facts())
    for episode in episodes:
        first.add(episode)
    for replay in (first, ReplayBuffer(tmp_path)):
        sample = all_samples(replay)
        assert sample[top].shape == (18, 3, 8, 12)
        assert sample[wrist].shape == (18, 2, 3, 8, 10)
        assert sample[wrist].dtype == np.uint8
        np.testing.assert_array_equal(sample[top], np.concatenate([e.columns[top] for e in episodes]))
        for number, episode in enumerate(episodes):
            sent = episode.columns[wrist]
            before = np.concatenate([sent[:1], sent[:-1]])  # of the first frame there is none
            np.testing.assert_array_equal(sample[wrist][6 * number :][:6], np.stack([before, sent], 1))


def test_whoever_sends_an_episode_may_use_the_arrays_again(tmp_path: Path) -> None:
    episode, replay = collected(6, cameras=True), buffer(tmp_path, seeing_facts())
    replay.add(episode)
    before = all_samples(replay)
    for column in episode.columns.values():
        column[:] = 0
    same(all_samples(replay), before)


def anonymous_memory() -> int:
    """Return the bytes of this process that no file holds."""
    status = Path("/proc/self/status").read_text()
    return next(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_pictures_stay_on_disk_also_when_read_again(tmp_path: Path) -> None:
    facts = seeing_facts()
    top, _ = CAMERAS
    facts["features"][top]["shape"] = [256, 256, 3]
    episode = collected(50, cameras=True)
    pictures = np.random.default_rng(0).integers(0, 256, (50, 3, 256, 256), np.uint8)
    replay = buffer(tmp_path, facts)
    before = anonymous_memory()
    for _ in range(12):
        replay.add(replace(episode, columns={**episode.columns, top: pictures}))
    again = ReplayBuffer(tmp_path)
    assert anonymous_memory() - before < 0.25 * 12 * pictures.nbytes
    for one in (replay, again):
        sample = one.sample(16, (0, 1))
        np.testing.assert_array_equal(sample[top], pictures[sample["frame_index"]])


def test_pictures_may_have_their_channels_last(tmp_path: Path) -> None:
    one, other = buffer(tmp_path / "a", seeing_facts()), buffer(tmp_path / "b", seeing_facts())
    episode = collected(6, cameras=True)
    one.add(episode)
    other.add({n: np.moveaxis(c, 1, -1) if n in CAMERAS else c for n, c in episode.columns.items()})
    same(all_samples(one), all_samples(other))


def test_windows_end_at_a_change_of_who_moves_or_labels(tmp_path: Path) -> None:
    mode = np.array([AUTO] * 4 + [EXPERT] * 3 + [HUMAN] * 2 + [AUTO] * 3)
    labelled = np.array([False] * 4 + [True] * 5 + [False] * 2 + [True])
    episode = collected(12, mode=mode, labelled=labelled)
    replay = buffer(tmp_path)
    replay.add(episode)
    sample = all_samples(replay)
    runs = [range(4), range(4, 7), range(7, 9), range(9, 11), range(11, 12)]
    for run in runs:
        for step in run:
            for name, offsets in plain_facts()["windows"].items():
                wanted = [step + offset for offset in offsets]
                there = [min(max(row, run[0]), run[-1]) for row in wanted]
                np.testing.assert_array_equal(sample[name][step], episode.columns[name][there])
                np.testing.assert_array_equal(sample[f"{name}_is_pad"][step], np.not_equal(wanted, there))


def test_old_episodes_make_way_and_the_rest_stays_what_it_was(tmp_path: Path) -> None:
    lengths = np.random.default_rng(0).integers(4, 90, 50)
    replay = buffer(tmp_path, settings={"capacity": 200})
    for number, length in enumerate(lengths):
        replay.add(collected(int(length), number, mode=number % 3))
    kept = [n for n in range(50) if lengths[n:].sum() <= 200]
    episodes = [collected(int(lengths[n]), n) for n in kept]
    for found in (replay, ReplayBuffer(tmp_path, {"capacity": 200})):
        sample = all_samples(found)
        assert found.size() == (lengths[kept].sum(), lengths[kept].sum())
        np.testing.assert_array_equal(
            sample[STATE][:, -1], np.concatenate([e.columns[STATE] for e in episodes])
        )
        assert sample["episode_index"].tolist() == np.repeat(kept, lengths[kept]).tolist()
        np.testing.assert_array_equal(sample["index"], np.arange(lengths.sum())[-lengths[kept].sum() :])
        last = sample[f"{ACTION}_is_pad"][:, -1]
        wanted = np.concatenate([np.arange(length) + 3 >= length for length in lengths[kept]])
        np.testing.assert_array_equal(last, wanted)
        assert found.counts().steps == lengths.sum()
        assert found.counts().episodes == 50


def test_an_episode_longer_than_the_memory_stays_alone(tmp_path: Path) -> None:
    replay = buffer(tmp_path, settings={"capacity": 8})
    for length in (6, 20, 20):
        replay.add(collected(length))
    assert replay.size() == ReplayBuffer(tmp_path, {"capacity": 8}).size() == (20, 20)


def test_a_draw_is_a_pure_function_of_the_contents_and_the_numbers(tmp_path: Path) -> None:
    replay = buffer(tmp_path / "one")
    for number in range(8):
        replay.add(collected(9, number))
    drawn = replay.sample(64, (7, 3))
    again = ReplayBuffer(tmp_path / "one")  # from the journal
    same(drawn, again.sample(64, (7, 3)))
    parts = [again.sample(24, (7, 3)), again.sample(40, (7, 3), first=24)]
    np.testing.assert_array_equal(drawn["index"], np.concatenate([part["index"] for part in parts]))
    next_one = again.sample(64, (7, 4))["index"]
    assert not np.array_equal(drawn["index"], next_one)
    at_once = again.sample(64, (7, 3), updates=2)["index"]
    np.testing.assert_array_equal(at_once, np.concatenate([drawn["index"], next_one]))
    without = [again.sample(64)["index"] for _ in range(2)]
    assert not np.array_equal(*without)


def test_who_draws_while_episodes_come_sees_whole_ones(tmp_path: Path) -> None:
    """Every number of an episode is the number of the episode, so that a mixture of two would show."""
    replay = buffer(tmp_path, settings={"capacity": 100})

    def constant(number: int) -> dict[str, Any]:
        length = 5 + number % 7
        return {
            STATE: np.full((length, 3), number, np.float32),
            ACTION: np.full((length, 2), number, np.float32),
        }

    replay.add(constant(0))
    ended = threading.Event()

    def add() -> None:
        for number in range(1, 60):
            replay.add(constant(number))
        ended.set()

    thread = threading.Thread(target=add)
    thread.start()
    while not ended.is_set():
        sample = replay.sample(64)
        assert (sample[STATE] == sample["episode_index"][:, None, None]).all()
        assert (sample[ACTION] == sample["episode_index"][:, None, None]).all()
    thread.join()
    assert replay.counts().episodes == 60


def test_an_episode_that_is_sent_again_counts_once(tmp_path: Path) -> None:
    replay = buffer(tmp_path)
    assert [replay.add(collected(), key="a"), replay.add(collected(seed=1), key="b")] == [0, 1]
    assert replay.add(collected(), key="a") == 0
    assert replay.add(collected(source="other"), key="a") == 2
    again = ReplayBuffer(tmp_path)
    assert again.add(collected(seed=1), key="b") == 1
    assert again.add(collected(), key=None) == 3
    assert again.counts().episodes == 4


def test_counts_tell_modes_versions_and_outcomes_also_from_the_journal(tmp_path: Path) -> None:
    replay = buffer(tmp_path, settings={"capacity": 12})
    replay.add(collected(10, version=1, success=False))
    replay.add(collected(10, version=1, labelled=True))
    replay.add(
        collected(10, version=3, mode=[AUTO] * 6 + [EXPERT] * 3 + [HUMAN], labelled=[False] * 6 + [True] * 4)
    )
    for found in (replay, ReplayBuffer(tmp_path, {"capacity": 12})):
        counts = found.counts()
        assert (counts.episodes, counts.steps, counts.labels) == (3, 30, 14)
        assert counts.modes == {"auto": 26, "expert": 3, "human": 1}
        assert counts.versions == {1: Outcomes(2, 1), 3: Outcomes(1, 1)}
        assert counts.outcomes == (False, True, True)
        assert counts.windows == 10
        assert counts.scores()["collected_success"] == pytest.approx(2 / 3)
        assert counts.scores()["expert_labels"] == 14


def test_steps_of_a_running_episode_make_the_episode_at_its_end(tmp_path: Path) -> None:
    episode, replay = collected(10, source="robot"), buffer(tmp_path)
    rows = {**episode.columns, "control_mode": episode.control_mode}

    def part(begin: int, end: int) -> dict[str, np.ndarray]:
        return {name: column[begin:end] for name, column in rows.items()}

    assert replay.add_steps("robot", part(0, 4), first=0) is None
    assert replay.add_steps("robot", part(4, 8), first=4) is None
    assert replay.add_steps("robot", part(4, 8), first=4) is None  # the answer was lost
    assert replay.counts().episodes == 0
    number = replay.add_steps("robot", part(8, 10), first=8, end=True, key="a", success=False)
    assert number == 0
    assert replay.add_steps("robot", part(8, 10), first=8, end=True, key="a", success=False) == 0
    assert replay.counts().outcomes == (False,)
    np.testing.assert_array_equal(all_samples(replay)[STATE][:, -1], episode.columns[STATE])


def test_steps_whose_beginning_was_lost_with_the_actor_are_refused(tmp_path: Path) -> None:
    episode = collected(10)
    replay = buffer(tmp_path)
    with pytest.raises(EpisodeError, match="only steps 0 to 0 of 6 are here"):
        replay.add_steps("robot", {n: c[6:] for n, c in episode.columns.items()}, first=6, end=True)
    assert replay.add_steps("robot", episode.columns, first=0, end=True) == 0


def test_steps_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    replay, columns = buffer(tmp_path), collected(10).columns
    replay.add_steps("robot", columns, first=0)
    with pytest.raises(EpisodeError, match="has steps that do not go together"):
        replay.add_steps("robot", {**columns, ACTION: np.zeros((10, 3))}, first=10, end=True)
    replay.add_steps("robot", columns, first=0)
    with pytest.raises(EpisodeError, match="has steps with different columns"):
        replay.add_steps("robot", {ACTION: columns[ACTION]}, first=10, end=True)
    assert replay.size() == (0, 0)


def test_what_cannot_be_drawn_says_so(tmp_path: Path) -> None:
    replay = ReplayBuffer(tmp_path)
    assert replay.size() == (0, 0)
    for call in (lambda: replay.sample(4), lambda: replay.add(collected())):
        with pytest.raises(UsageError, match="call describe"):
            call()
    replay.describe(plain_facts())
    with pytest.raises(UsageError, match="no usable window yet, of 0 steps"):
        replay.sample(4)
    chosen = buffer(tmp_path / "expert", settings={"sampling": "expert"})
    chosen.add(collected(8))
    assert chosen.size() == (0, 8)
    with pytest.raises(UsageError, match="no usable window yet, of 8 steps"):
        chosen.sample(4)


def test_samples_of_another_kind_are_refused_by_what_differs(tmp_path: Path) -> None:
    replay = buffer(tmp_path)
    replay.describe({**plain_facts(), "episodes": 7, "root": "elsewhere"})
    changes: list[tuple[dict[str, Any], str]] = [
        ({"windows": {STATE: [-1, 0], ACTION: [0, 1]}}, r"window of 'action' is \(0, 1, 2, 3\) and \(0, 1\)"),
        ({"fps": 20}, "the rate is 10 and 20 steps/s"),
        (seeing_facts(), r"'observation.images.top' is missing and picture uint8 \[3, 8, 12\]"),
    ]
    for again in (replay, ReplayBuffer(tmp_path)):
        for change, sentence in changes:
            with pytest.raises(UsageError, match=sentence):
                again.describe({**plain_facts(), **change})
        again.describe(plain_facts())


@pytest.mark.parametrize("lacking", ["windows", "fps", "features"])
def test_a_dataset_that_does_not_describe_itself_is_refused(tmp_path: Path, lacking: str) -> None:
    facts = {name: value for name, value in plain_facts().items() if name != lacking}
    named = "columns" if lacking != "fps" else "fps"
    with pytest.raises(UsageError, match=f"do not tell its {named}"):
        ReplayBuffer(tmp_path).describe(facts)
    assert not (tmp_path / "description.json").exists()


def test_a_journal_without_its_description_is_refused(tmp_path: Path) -> None:
    buffer(tmp_path).add(collected())
    (tmp_path / "description.json").unlink()
    with pytest.raises(JournalError, match=r"description\.json is missing"):
        ReplayBuffer(tmp_path)


def test_samples_are_ready_for_torch(tmp_path: Path) -> None:
    replay = buffer(tmp_path, seeing_facts())
    replay.add(collected(8, cameras=True))
    sample = replay.sample(5)
    assert sample["task"] == ["reach"] * 5
    assert all(len(torch.from_numpy(value)) == 5 for key, value in sample.items() if key != "task")
