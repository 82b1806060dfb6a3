"""Mixed batches: an exact share of collected samples, the same for any number of ranks, and resuming."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.collected import BESIDE, WINDOWS, demonstrations, whole_dataset_episodes
from helpers.dataset_samples import FEATURES, FILM_FEATURES, film_episodes, make_episodes, write_dataset

from trainer.data.batch_path import BatchPath
from trainer.data.dataset import WindowedDataset
from trainer.data.lerobot import LeRobotReader
from trainer.data.loader import BatchLoader
from trainer.data.mixture import MixtureDataset, Part
from trainer.data.windows import Window
from trainer.online.mixed import DrawKey, MixedBatches, collected_rows
from trainer.online.replay import ReplayBuffer
from trainer.utils.errors import UsageError

LENGTHS = (40, 30, 55)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return demonstrations(tmp_path_factory.mktemp("demonstrations") / "set", LENGTHS)


@pytest.fixture(scope="module")
def replay(dataset: Any, tmp_path_factory: pytest.TempPathFactory) -> ReplayBuffer:
    """Return a buffer whose actions are those of no demonstration."""
    made = ReplayBuffer(tmp_path_factory.mktemp("replay"))
    made.describe(dataset.facts())
    for columns in whole_dataset_episodes((9, 14)):
        made.add({**columns, "action": columns["action"] + 100})
    return made


def drawn_from(replay: ReplayBuffer) -> Callable[[int, DrawKey], dict[str, Any]]:
    return lambda count, key: replay.sample(count, (11, key.update), key.first)


def mixed(
    dataset: Any,
    draw: Any,
    batch_size: int = 10,
    ratio: float = 0.3,
    rank: int = 0,
    world_size: int = 1,
    micro_batches: int = 1,
    **options: Any,
) -> MixedBatches:
    place = {"rank": rank, "world_size": world_size}
    loader = BatchLoader(
        dataset, batch_size=batch_size, micro_batches=micro_batches, seed=3, **place, **options
    )
    return MixedBatches(loader, BatchPath(), draw, ratio, **place)


def is_collected(batch: dict[str, Any]) -> np.ndarray:
    return batch["action"][:, 0, 0].numpy() > 50


@pytest.mark.parametrize(
    ("ratio", "samples", "count"),
    [(0.5, 16, 8), (0.3, 10, 3), (0.05, 10, 1), (0.99, 10, 10), (1.0, 7, 7), (0.25, 10, 3)],
)
def test_the_share_is_rounded_once_and_spread(ratio: float, samples: int, count: int) -> None:
    rows = collected_rows(ratio, samples)
    assert rows.sum() == count
    for size in range(1, samples + 1):  # of any part of the batch it is the share, to less than one sample
        parts = [rows[i : i + size].sum() for i in range(samples - size + 1)]
        assert abs(np.array(parts) - size * count / samples).max() < 1


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a share of 0\.02 collected samples is none of"):
        collected_rows(0.02, 16)


@pytest.mark.parametrize("workers", [0, 1])
def test_every_batch_has_the_share_and_all_other_rows_are_those_of_before(
    dataset: Any, replay: ReplayBuffer, workers: int
) -> None:
    batches = mixed(dataset, drawn_from(replay), num_workers=workers)
    plain = BatchLoader(dataset, batch_size=10, seed=3)
    assert batches.steps_per_epoch == plain.steps_per_epoch == sum(LENGTHS) // 10
    assert batches.samples_per_update == 10
    seen = 0
    for update, (batch, before) in enumerate(zip(batches.epoch(0), plain.epoch(0), strict=True)):
        of_buffer = is_collected(batch)
        assert of_buffer.sum() == 3
        wanted = replay.sample(3, (11, update))
        assert list(batch) == list(before)
        for key, value in batch.items():
            if key == "task":
                assert [t for t, own in zip(value, of_buffer, strict=True) if own] == wanted[key]
                assert [t for t, own in zip(value, ~of_buffer, strict=True) if own] == [
                    t for t, own in zip(before[key], ~of_buffer, strict=True) if own
                ]
                continue
            np.testing.assert_array_equal(value[~of_buffer], before[key][~of_buffer])
            assert value.dtype == before[key].dtype
            numbers = wanted[key].astype(np.float32) if wanted[key].dtype.kind == "f" else wanted[key]
            np.testing.assert_array_equal(value[of_buffer], numbers)
        seen += 1
    assert seen == plain.steps_per_epoch


@pytest.mark.parametrize(("world_size", "micro_batches"), [(2, 1), (1, 2), (4, 1), (2, 2)])
def test_ranks_and_micro_batches_share_the_global_batch_of_one(
    dataset: Any, replay: ReplayBuffer, world_size: int, micro_batches: int
) -> None:
    """Also where they cannot share the collected samples evenly: 7 of 20."""
    draw = drawn_from(replay)
    parts = world_size * micro_batches
    one = list(mixed(dataset, draw, 20, 0.35).epoch(0))
    ranks = [
        list(mixed(dataset, draw, 20 // parts, 0.35, rank, world_size, micro_batches).epoch(0))
        for rank in range(world_size)
    ]
    for step, whole in enumerate(one):
        slots = [
            ranks[rank][step * micro_batches + micro]
            for micro in range(micro_batches)
            for rank in range(world_size)
        ]
        assert {len(slot["action"]) for slot in slots} == {20 // parts}
        for key in ("action", "observation.state", "index", "action_is_pad"):
            torch.testing.assert_close(torch.cat([slot[key] for slot in slots]), whole[key], rtol=0, atol=0)


def test_after_an_interruption_the_draws_go_on_where_they_were(dataset: Any, replay: ReplayBuffer) -> None:
    first = mixed(dataset, drawn_from(replay))
    whole = [batch["action"] for epoch in (0, 1) for batch in first.epoch(epoch)]
    again = mixed(dataset, drawn_from(replay))
    again.load_state_dict(first.state_dict())
    rest = [batch["action"] for batch in again.epoch(0, 5)] + [batch["action"] for batch in again.epoch(1)]
    assert len(rest) == len(whole) - 5
    assert all(torch.equal(a, b) for a, b in zip(rest, whole[5:], strict=True))
    assert not torch.equal(whole[0], whole[first.steps_per_epoch])


def test_another_share_than_the_run_had_is_refused(dataset: Any, replay: ReplayBuffer) -> None:
    one, other = mixed(dataset, drawn_from(replay)), mixed(dataset, drawn_from(replay), ratio=0.5)
    with pytest.raises(ValueError, match="with 3 collected samples in a batch of 10, and this one has 5"):
        other.load_state_dict(one.state_dict())
    with pytest.raises(ValueError, match="with 0 collected samples"):
        other.load_state_dict({})


def test_all_of_a_batch_may_be_collected(dataset: Any, replay: ReplayBuffer) -> None:
    for batch in mixed(dataset, drawn_from(replay), ratio=1.0).epoch(0):
        assert is_collected(batch).all()
        assert len(batch["action"]) == 10


def test_draws_are_made_ahead_and_time_is_counted_only_where_they_are_late(
    dataset: Any, replay: ReplayBuffer
) -> None:
    asked: list[DrawKey] = []

    def draw(count: int, key: DrawKey) -> dict[str, Any]:
        asked.append(key)
        return replay.sample(count, (key.update,))

    batches = mixed(dataset, draw)
    stream = batches.epoch(0)
    next(stream)
    deadline = time.monotonic() + 20
    while len(asked) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert asked == [DrawKey(0, 0), DrawKey(1, 0), DrawKey(2, 0)]
    stream.close()  # type: ignore[attr-defined]


def test_what_a_draw_raises_comes_to_the_loop(dataset: Any) -> None:
    def draw(count: int, key: DrawKey) -> dict[str, Any]:
        raise UsageError("the buffer is gone")

    with pytest.raises(UsageError, match="the buffer is gone"):
        next(mixed(dataset, draw).epoch(0))


def test_what_collected_samples_lack_is_said(dataset: Any, replay: ReplayBuffer) -> None:
    def without(count: int, key: DrawKey) -> dict[str, Any]:
        return {k: v for k, v in replay.sample(count, key).items() if k != "phase"}

    with pytest.raises(UsageError, match="the demonstrations have 'phase', and what was collected has not"):
        next(mixed(dataset, without).epoch(0))

    def narrower(count: int, key: DrawKey) -> dict[str, Any]:
        sample = replay.sample(count, key)
        return {**sample, "action": sample["action"][:, :2]}

    with pytest.raises(
        UsageError, match=r"'action' as torch.float32 \[4, 2\], and a collected one as .* \[2, 2\]"
    ):
        next(mixed(dataset, narrower).epoch(0))


def test_what_may_only_be_read_is_taken_too(dataset: Any, replay: ReplayBuffer) -> None:
    """As Ray gives it."""

    def draw(count: int, key: DrawKey) -> dict[str, Any]:
        sample = replay.sample(count, key)
        for value in sample.values():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False
        return sample

    batch = next(mixed(dataset, draw).epoch(0))
    batch["action"].add_(1)


def test_the_example_is_of_demonstrations(dataset: Any) -> None:
    def draw(count: int, key: DrawKey) -> dict[str, Any]:
        raise AssertionError("nothing is collected yet")

    batch = mixed(dataset, draw).example(2)
    np.testing.assert_array_equal(batch["index"], [0, 1])


def test_collected_samples_are_those_of_the_robot_of_a_mixture(
    dataset: Any, replay: ReplayBuffer, tmp_path: Path
) -> None:
    episodes = [
        {**c, "action": np.hstack([c["action"], c["action"][:, :1]])} for c in make_episodes((20, 10))
    ]
    wider = {**FEATURES, "action": {"dtype": "float32", "shape": [3], "names": None}}
    reader = LeRobotReader(write_dataset(tmp_path / "wider", episodes, features=wider))
    other = WindowedDataset(reader, WINDOWS, extra_columns=BESIDE)
    mixture = MixtureDataset([Part("own", dataset), Part("other", other)], pad=True)
    sample = {
        k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in replay.sample(4, (1,)).items()
    }
    batch = mixture.of_robot(sample)
    own = mixture.__getitems__(np.arange(4))
    assert list(batch) == list(own)
    for key, value in batch.items():
        if key != "task":
            assert (value.shape, value.dtype) == (own[key].shape, own[key].dtype), key
    np.testing.assert_array_equal(batch["action"][..., :2], sample["action"])
    assert batch["action_dim_is_pad"].tolist() == [[False, False, True]] * 4
    assert batch["dataset_index"].tolist() == [0] * 4


def test_frames_that_are_kept_for_later_batches_are_those_of_the_rows_that_remain(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "films", film_episodes([20, 15]), features=FILM_FEATURES)
    top = "observation.images.top"
    films = WindowedDataset(LeRobotReader(root), [Window(top, (0,)), Window("action", (0, 1))])

    def draw(count: int, key: DrawKey) -> dict[str, Any]:
        black = np.zeros((count, 3, 32, 48), np.uint8)
        return {**films.__getitems__(np.arange(count)), top: black}

    batches = mixed(films, draw, frame_memory=10 * 2**20)
    plain = BatchLoader(films, batch_size=10, seed=3)
    for epoch in (0, 1):
        for batch, before in zip(batches.epoch(epoch), plain.epoch(epoch), strict=True):
            given = batch[top].flatten(1).amax(1) == 0
            assert int(given.sum()) == 3
            assert torch.equal(batch[top][~given], before[top][~given])
