from __future__ import annotations

import functools
import itertools
import random
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from helpers.dataset_samples import make_episodes, write_dataset
from torch.utils.data import Dataset

from trainer.data.dataset import WindowedDataset
from trainer.data.errors import DatasetError
from trainer.data.lerobot import LeRobotReader, LeRobotWriter
from trainer.data.loader import BatchLoader
from trainer.data.prefetcher import Prefetcher
from trainer.data.windows import Window


class Counted(Dataset):
    """Numbers as samples; tells which of them were read, and where."""

    concurrent_reads = True

    def __init__(self, length=40, broken=None):
        self.length, self.broken = length, broken
        self.threads, self.reads = set(), 0

    def __len__(self):
        return self.length

    def __getitems__(self, indices):
        self.reads += 1
        self.threads.add(threading.current_thread())
        if self.broken is not None and self.reads > self.broken:
            raise DatasetError("this batch is damaged")
        return {"x": torch.as_tensor(indices)}


def calls(results):
    """Return what makes results, each of which may be an error."""

    def make(result):
        if isinstance(result, Exception):
            raise result
        return result

    return (functools.partial(make, result) for result in results)


def test_results_come_in_order_and_are_made_ahead():
    made = []
    prefetcher = Prefetcher((functools.partial(made.append, number) for number in range(10)), 3)
    next(prefetcher)
    until(lambda: len(made) == 4)  # as many as may be ready, and the one that was taken
    time.sleep(0.05)
    assert made == [0, 1, 2, 3]
    assert list(prefetcher) == [None] * 9
    assert made == list(range(10))
    with pytest.raises(StopIteration):
        next(prefetcher)
    prefetcher.close()


def test_a_result_that_is_ready_early_waits_for_its_turn():
    second = threading.Event()

    def slow():
        assert second.wait(10), "the second is made while the first still is"
        return "first"

    def fast():
        second.set()
        return "second"

    assert list(Prefetcher(iter([slow, fast]), 2, threads=2)) == ["first", "second"]


def test_what_is_raised_comes_at_its_place():
    prefetcher = Prefetcher(calls([1, 2, KeyError("the third"), 4]), 5)
    assert [next(prefetcher), next(prefetcher)] == [1, 2]
    with pytest.raises(KeyError, match="the third"):
        next(prefetcher)
    with pytest.raises(StopIteration):
        next(prefetcher)


def test_closing_early_ends_the_threads():
    before = threading.active_count()
    prefetcher = Prefetcher(calls(itertools.count()), 3, threads=2)
    assert next(prefetcher) == 0
    prefetcher.close()
    prefetcher.close()
    assert threading.active_count() == before
    assert list(prefetcher) == []


def test_the_program_ends_though_nobody_closed_it():
    program = (
        "import itertools; from trainer.data.prefetcher import Prefetcher\n"
        "held = Prefetcher((int for _ in itertools.count()), 3)\nprint(next(held))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


def test_a_loader_reads_beside_the_step_what_may_be_read_so():
    dataset = Counted()
    batches = BatchLoader(dataset, batch_size=4, seed=5).epoch(1, 3)
    first = next(batches)
    until(lambda: dataset.reads == 4)
    assert threading.current_thread() not in dataset.threads
    rest = [first, *batches]
    alone = Counted()
    alone.concurrent_reads = False
    here = list(BatchLoader(alone, batch_size=4, seed=5).epoch(1, 3))
    assert alone.threads == {threading.current_thread()}
    assert len(rest) == len(here) == 7
    assert all(torch.equal(a["x"], b["x"]) for a, b in zip(rest, here, strict=True))


def test_a_damaged_batch_fails_at_its_step_and_an_abandoned_epoch_ends():
    before = threading.active_count()
    batches = BatchLoader(Counted(broken=3), batch_size=4).epoch(0)
    assert len([next(batches) for _ in range(3)]) == 3
    with pytest.raises(DatasetError, match="damaged"):
        next(batches)
    abandoned = BatchLoader(Counted(), batch_size=4).epoch(0)
    next(abandoned)
    del abandoned
    until(lambda: threading.active_count() == before)


def test_two_epochs_at_once_do_not_mix():
    loader = BatchLoader(Counted(400), batch_size=4, seed=1)
    alone = [[b["x"] for b in loader.epoch(epoch)] for epoch in (0, 1)]
    for one, two, a, b in zip(loader.epoch(0), loader.epoch(1), *alone, strict=True):
        assert torch.equal(one["x"], a)
        assert torch.equal(two["x"], b)


def test_what_draws_from_the_global_generators_is_read_between_the_steps():
    class Noisy(Dataset):
        def __len__(self):
            return 12

        def __getitem__(self, index):
            return {"x": torch.rand(1), "y": np.random.rand(), "z": random.random()}

    def run():
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        found = []
        for batch in BatchLoader(Noisy(), batch_size=4).epoch(0):
            found += [batch["x"], torch.rand(3), batch["y"], batch["z"]]
        return torch.cat([value.reshape(-1).double() for value in found])

    assert torch.equal(run(), run())


def test_frames_decoded_in_threads_are_the_same(tmp_path, monkeypatch):
    features = {
        "action": {"dtype": "float32", "shape": [1], "names": None},
        "observation.image": {"dtype": "video", "shape": [64, 64, 3], "names": None},
    }
    rng = np.random.default_rng(0)
    with LeRobotWriter(tmp_path / "set", fps=10, features=features) as writer:
        for _ in range(3):
            frames = rng.integers(0, 256, (8, 8, 8, 3), np.uint8).repeat(8, 1).repeat(8, 2).repeat(10, 0)
            writer.add_episode({"action": rng.normal(size=(80, 1)), "observation.image": frames}, "look")
    dataset = WindowedDataset(LeRobotReader(tmp_path / "set"), [Window("observation.image", (-1, 0))])
    rows = rng.integers(0, len(dataset), 150)
    found = {}
    for threads in (1, 2, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found[threads] = dataset.__getitems__(rows)["observation.image"]
    assert torch.equal(found[1], found[2])
    assert torch.equal(found[1], found[5])


def test_a_loader_gives_the_same_beside_the_step(tmp_path):
    root = write_dataset(tmp_path / "set", make_episodes())
    dataset = WindowedDataset(LeRobotReader(root), [Window("action", (0, 1, 2))])
    one = list(BatchLoader(dataset, batch_size=4, seed=2).epoch(3))
    dataset.concurrent_reads = False
    two = list(BatchLoader(dataset, batch_size=4, seed=2).epoch(3))
    assert all(torch.equal(a["action"], b["action"]) for a, b in zip(one, two, strict=True))


def until(condition):
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come to pass")
