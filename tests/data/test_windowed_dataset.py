from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from helpers.dataset_samples import make_episodes, recorded_pusht, write_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.dataset import WindowedDataset
from trainer.data.errors import DatasetError, WindowError
from trainer.data.lerobot import LeRobotReader
from trainer.data.windows import (
    Window,
    WindowGather,
    action_offsets,
    frame_stride,
    history_offsets,
)


def test_offsets():
    assert action_offsets(4, 0, 1) == (0, 1, 2, 3)
    assert action_offsets(3, 1, 2) == (2, 4, 6)
    assert history_offsets(3, "oldest_first", 1) == (-2, -1, 0)
    assert history_offsets(3, "newest_first", 5) == (0, -5, -10)
    assert history_offsets(1, "newest_first", 5) == (0,)


def test_control_rate_and_recording_rate():
    assert frame_stride(10, 10, 16) == 1
    assert frame_stride(5, 30, 16) == 6
    assert frame_stride(29.97, 29.97, 100) == 1
    for hz, fps, furthest in ((20, 10, 1), (3, 10, 1), (29.9, 30, 16), (1e9, 10, 0)):
        with pytest.raises(
            ValueError, match=rf"Hz does not fall on the frames of a recording at {fps} frames/s"
        ):
            frame_stride(hz, fps, furthest)
    # A rate that is off by less than it matters within the window is what the recorder meant.
    assert frame_stride(29.9999, 30, 16) == 1


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=5), st.lists(st.integers(-7, 7), min_size=1, max_size=6)
)
def test_gather_against_a_loop(lengths, offsets):
    total = sum(lengths)
    column = np.arange(total * 2, dtype=np.float32).reshape(total, 2)
    ends = np.cumsum(lengths)
    starts = ends - lengths
    window = Window("x", tuple(offsets))
    if window.span > max(lengths):
        with pytest.raises(WindowError, match="longer than every episode"):
            WindowGather({"x": column}, [window], starts, np.array(lengths))
        return
    rows = np.random.default_rng(0).permutation(total)
    found = WindowGather({"x": column}, [window], starts, np.array(lengths))(rows)
    for b, row in enumerate(rows):
        episode = int(np.searchsorted(ends, row, side="right"))
        for t, offset in enumerate(offsets):
            inside = min(max(row + offset, starts[episode]), ends[episode] - 1)
            np.testing.assert_array_equal(found["x"][b, t], column[inside])
            assert found["x_is_pad"][b, t] == (inside != row + offset)


@pytest.fixture
def reader(tmp_path):
    return LeRobotReader(write_dataset(tmp_path / "set", make_episodes()))


WINDOWS = (
    Window("observation.state", (-1, 0)),
    Window("observation.touch", (-2, 0)),
    Window("observation.gripper", (-1, 0)),
    Window("action", (0, 1, 2, 3)),
)


def test_a_batch_has_every_key_and_shape(reader):
    dataset = WindowedDataset(reader, WINDOWS, extra_columns=["next.reward", "phase"])
    assert len(dataset) == 36
    batch = dataset.__getitems__([0, 8, 35])
    shapes = {key: (tuple(v.shape), v.dtype) for key, v in batch.items() if key != "task"}
    assert shapes == {
        "observation.state": ((3, 2, 3), torch.float32),
        "observation.state_is_pad": ((3, 2), torch.bool),
        "observation.touch": ((3, 2, 3, 2), torch.float32),
        "observation.touch_is_pad": ((3, 2), torch.bool),
        "observation.gripper": ((3, 2, 1), torch.float64),
        "observation.gripper_is_pad": ((3, 2), torch.bool),
        "action": ((3, 4, 2), torch.float32),
        "action_is_pad": ((3, 4), torch.bool),
        "next.reward": ((3, 1), torch.float32),
        "phase": ((3, 1), torch.int64),
        "timestamp": ((3,), torch.float32),
        "frame_index": ((3,), torch.int64),
        "episode_index": ((3,), torch.int64),
        "index": ((3,), torch.int64),
        "task_index": ((3,), torch.int64),
    }
    assert batch["task"] == ["task 0", "task 1", "task 0"]
    assert batch["index"].tolist() == [0, 8, 35]
    assert batch["frame_index"].tolist() == [0, 1, 8]
    assert batch["observation.state_is_pad"].tolist() == [[True, False], [False, False], [False, False]]
    assert batch["action_is_pad"].tolist() == [
        [False] * 4,
        [False, False, True, True],
        [False, True, True, True],
    ]


def test_one_sample_is_a_row_of_a_batch(reader):
    dataset = WindowedDataset(reader, WINDOWS)
    batch = dataset.__getitems__(np.arange(36))
    for i in range(36):
        sample = dataset[i]
        assert set(sample) == set(batch)
        for key, value in sample.items():
            if key == "task":
                assert value == batch[key][i]
            else:
                assert torch.equal(value, batch[key][i])
    assert dataset[-1]["index"] == 35
    with pytest.raises(IndexError):
        dataset[36]


def test_batches_do_not_share_memory_with_the_dataset(reader):
    dataset = WindowedDataset(reader, WINDOWS)
    before = dataset.__getitems__([3])
    for value in dataset.__getitems__([3]).values():
        if isinstance(value, torch.Tensor):
            value.zero_()
    after = dataset.__getitems__([3])
    assert all(torch.equal(before[key], after[key]) for key in before if key != "task")


def test_chosen_episodes(reader):
    whole = WindowedDataset(reader, WINDOWS)
    some = WindowedDataset(reader, WINDOWS, episodes=[4, 1])
    assert len(some) == 3 + 9
    batch = some.__getitems__(range(12))
    assert batch["episode_index"].tolist() == [1] * 3 + [4] * 9
    expected = whole.__getitems__(batch["index"])
    assert all(torch.equal(batch[key], expected[key]) for key in batch if key != "task")
    facts = some.facts()
    assert (facts["episodes"], facts["frames"]) == (2, 12)
    assert facts["episode_lengths"] == {"min": 3, "mean": 6.0, "max": 9}
    assert facts["windows"]["action"] == [0, 1, 2, 3]
    json.dumps(facts)
    action = np.concatenate([make_episodes()[i]["action"] for i in (1, 4)]).astype(np.float64)
    np.testing.assert_allclose(some.statistics(["action"])["action"]["mean"], action.mean(axis=0))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            {"windows": [Window("action", tuple(range(13)))]},
            "13 frames of 'action' is longer than every episode; ",
        ),
        ({"windows": [Window("actions", (0,))]}, "no feature 'actions'; did you mean 'action'"),
        ({"windows": [Window("action", (0,))] * 2}, "'action' is asked for more than once"),
        ({"windows": WINDOWS, "extra_columns": ["action"]}, "'action' is asked for more than once"),
        ({"windows": WINDOWS, "episodes": [7]}, "there is no episode 7; they are 0 to 4"),
        ({"windows": WINDOWS, "episodes": [1, 1]}, "chosen more than once"),
        ({"windows": WINDOWS, "episodes": []}, "no episode is chosen"),
        (
            {"windows": WINDOWS, "episodes": [1]},
            "4 frames of 'action' is longer than every episode; the longest has 3",
        ),
    ],
)
def test_what_cannot_be_had(reader, arguments, text):
    with pytest.raises(DatasetError, match=text):
        WindowedDataset(reader, **arguments)


def test_windows_of_recorded_demonstrations():
    reader = LeRobotReader(recorded_pusht())
    dataset = WindowedDataset(
        reader, [Window("observation.state", (-1, 0)), Window("action", tuple(range(16)))]
    )
    columns = reader.columns(["action", "observation.state", "episode_index"])
    rng = np.random.default_rng(0)
    indices = rng.integers(0, len(dataset), 200)
    batch = dataset.__getitems__(indices)
    for b, i in enumerate(indices):
        same = np.flatnonzero(columns["episode_index"] == columns["episode_index"][i])
        for key, offsets in (("observation.state", (-1, 0)), ("action", range(16))):
            wanted = i + np.array(offsets)
            np.testing.assert_array_equal(batch[key][b], columns[key][np.clip(wanted, same[0], same[-1])])
            np.testing.assert_array_equal(batch[f"{key}_is_pad"][b], (wanted < same[0]) | (wanted > same[-1]))
