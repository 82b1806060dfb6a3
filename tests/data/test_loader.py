from __future__ import annotations

import random
import time

import numpy as np
import pytest
import torch
from helpers.dataset_samples import make_episodes, write_dataset
from torch.utils.data import Dataset, Subset

from trainer.data.batch_path import BatchPath
from trainer.data.dataset import WindowedDataset
from trainer.data.lerobot import LeRobotReader
from trainer.data.loader import BatchLoader
from trainer.data.normalization import Normalizer
from trainer.data.order import GlobalBatchSampler
from trainer.data.packing import PackedBatch
from trainer.data.windows import Window


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = write_dataset(tmp_path_factory.mktemp("data") / "set", make_episodes())
    return WindowedDataset(
        LeRobotReader(root),
        [
            Window("observation.state", (-1, 0)),
            Window("observation.gripper", (0,)),
            Window("action", (0, 1, 2)),
        ],
    )


class Plain(Dataset):
    """A dataset of the user's own, without batches."""

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return {
            "x": torch.full((2,), float(index), dtype=torch.float64),
            "image": torch.full((3,), index, dtype=torch.uint8),
            "nested": {"y": np.float32(index)},
            "name": f"sample {index}",
            "noise": random.random() + np.random.rand(),
        }


def same(a, b):
    assert set(a) == set(b)
    for key, value in a.items():
        assert torch.equal(value, b[key]) if isinstance(value, torch.Tensor) else value == b[key]


@pytest.mark.parametrize(
    "options", [{}, {"path": BatchPath(pin_memory=True), "persistent_workers": True, "prefetch_factor": 3}]
)
def test_without_workers_all_flags_are_fine(dataset, options):
    loader = BatchLoader(dataset, batch_size=5, seed=3, **options)
    assert loader.steps_per_epoch == 7
    batches = list(loader.epoch(2))
    sampler = GlobalBatchSampler(36, 5, seed=3)
    assert len(batches) == 7
    for step, batch in enumerate(batches):
        same(batch, dataset_as_float32(dataset, sampler.indices(2, step)))


@pytest.mark.parametrize(
    ("asked", "device", "pinned"),
    [(None, "cuda", True), (False, "cuda", False), (True, "cuda", True), (True, "cpu", False)],
)
def test_memory_is_pinned_for_a_gpu_unless_told_otherwise(monkeypatch, asked, device, pinned):
    calls = []
    monkeypatch.setattr(PackedBatch, "pin_memory", lambda self: calls.append(self) or self)
    path = BatchPath(device=device, pin_memory=asked)
    path.packed({"state": torch.ones(3)})
    assert bool(calls) == path.pins_memory == pinned


def dataset_as_float32(dataset, indices):
    batch = dataset.__getitems__(indices)
    return {
        k: v.float() if isinstance(v, torch.Tensor) and v.is_floating_point() else v for k, v in batch.items()
    }


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_change_nothing(dataset, persistent):
    normalizer = Normalizer(dataset.statistics(["observation.state", "action"]))
    options = {"batch_size": 4, "seed": 1, "path": BatchPath(normalizer, pin_memory=True)}
    alone = BatchLoader(dataset, **options)
    with_workers = BatchLoader(
        dataset, num_workers=2, persistent_workers=persistent, prefetch_factor=2, **options
    )
    for epoch, start in ((0, 0), (1, 3), (2, 0)):
        expected = list(alone.epoch(epoch, start))
        found = list(with_workers.epoch(epoch, start))
        assert len(expected) == len(found) == 9 - start
        for a, b in zip(expected, found, strict=True):
            same(a, b)


def test_two_ranks_see_what_one_sees(dataset):
    one = BatchLoader(dataset, batch_size=6, seed=9)
    two = [BatchLoader(dataset, batch_size=3, rank=rank, world_size=2, seed=9) for rank in (0, 1)]
    for whole, *parts in zip(one.epoch(4), *(loader.epoch(4) for loader in two), strict=True):
        for key, value in whole.items():
            halves = [part[key] for part in parts]
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, torch.cat(halves))
            else:
                assert value == halves[0] + halves[1]


def test_normalized_then_float32(dataset):
    normalizer = Normalizer(dataset.statistics(["observation.state", "observation.gripper", "action"]))
    batch = next(BatchLoader(dataset, batch_size=36, path=BatchPath(normalizer)).epoch(0))
    assert batch["observation.gripper"].dtype == torch.float32  # float64 on disk
    # Windows begin at the sample's own frame, so their first actions are all actions once.
    first = batch["action"][:, 0]
    torch.testing.assert_close(first.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(first.std(0, correction=0), torch.ones(2), atol=1e-5, rtol=0)
    assert torch.equal(batch["observation.proprio_state"], batch["observation.state"])


def test_a_normalizer_alone_is_that_of_the_default_path(dataset):
    normalizer = Normalizer(dataset.statistics(["observation.state", "action"]))
    path = BatchPath(normalizer)
    of_path, of_normalizer = (
        next(BatchLoader(dataset, batch_size=4, **how).epoch(0))
        for how in ({"path": path}, {"normalizer": normalizer})
    )
    for key in ("observation.state", "action"):
        assert torch.equal(of_path[key], of_normalizer[key])
    with pytest.raises(ValueError, match="a path or a normalizer"):
        BatchLoader(dataset, batch_size=4, path=path, normalizer=normalizer)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataset_of_the_users_own(workers):
    loader = BatchLoader(Plain(), batch_size=4, num_workers=workers)
    sampler = GlobalBatchSampler(20, 4)
    for step, batch in enumerate(loader.epoch(0)):
        indices = sampler.indices(0, step).tolist()
        assert batch["x"].dtype == torch.float32
        assert batch["x"][:, 0].tolist() == indices
        assert batch["image"].dtype == torch.uint8
        assert batch["nested"]["y"].tolist() == indices
        assert batch["name"] == [f"sample {i}" for i in indices]


def test_a_subset_is_read_by_batches_or_lists_of_samples(dataset):
    chosen = list(range(5, 25))
    order = GlobalBatchSampler(20, 4).indices(0, 0)
    batch = next(BatchLoader(Subset(dataset, chosen), batch_size=4).epoch(0))
    assert batch["index"].tolist() == [chosen[i] for i in order]
    batch = next(BatchLoader(Subset(Plain(), range(20)), batch_size=4).epoch(0))
    assert batch["x"][:, 0].tolist() == order.tolist()


def test_random_numbers_in_workers_follow_the_seed():
    def noise(seed, epoch):
        state = torch.get_rng_state()
        loader = BatchLoader(Plain(), batch_size=4, num_workers=2, seed=seed)
        drawn = torch.cat([batch["noise"] for batch in loader.epoch(epoch)]).tolist()
        assert torch.equal(state, torch.get_rng_state()), "the main process lost random numbers to the loader"
        return drawn

    first = noise(1, 0)
    assert first == noise(1, 0)
    assert len(set(first)) == 20
    assert first != noise(2, 0)
    assert first != noise(1, 1)


def test_waiting_is_counted_and_the_step_is_not(dataset):
    class Slow(Plain):
        def __getitem__(self, index):
            time.sleep(0.005)
            return super().__getitem__(index)

    loader = BatchLoader(Slow(), batch_size=4)
    began = time.perf_counter()
    in_steps = 0.0
    for _ in loader.epoch(0):
        step_began = time.perf_counter()
        time.sleep(0.01)
        in_steps += time.perf_counter() - step_began
    assert 20 * 0.005 <= loader.wait_seconds <= time.perf_counter() - began - in_steps


@pytest.mark.parametrize("workers", [0, 1])
def test_on_another_device(dataset, workers):
    """The meta device stands in for a GPU: shapes, types and device are real, values are not."""
    here = next(BatchLoader(dataset, batch_size=4).epoch(0))
    there = next(
        BatchLoader(dataset, batch_size=4, num_workers=workers, path=BatchPath(device="meta")).epoch(0)
    )
    assert list(here) == list(there)
    assert there["task"] == here["task"]
    for key, value in here.items():
        if isinstance(value, torch.Tensor):
            assert there[key].device.type == "meta"
            assert (there[key].shape, there[key].dtype) == (value.shape, value.dtype)
    plain = next(
        BatchLoader(Plain(), batch_size=4, num_workers=workers, path=BatchPath(device="meta")).epoch(0)
    )
    assert plain["nested"]["y"].device.type == "meta"


def test_too_few_samples(dataset):
    with pytest.raises(ValueError, match="has 36 samples, fewer than a batch of 20 on each of 2 ranks needs"):
        BatchLoader(dataset, batch_size=20, world_size=2)


def test_a_fault_in_a_worker_is_shown():
    class Broken(Plain):
        def __getitem__(self, index):
            raise ValueError(f"sample {index} is bad")

    with pytest.raises(ValueError, match="is bad"):
        next(BatchLoader(Broken(), batch_size=4, num_workers=1).epoch(0))
