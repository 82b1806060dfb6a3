from __future__ import annotations

import multiprocessing
import os
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.dataset_samples import FILM_FEATURES, film_episodes, write_dataset

from trainer.data import disk_cache, frame_cache
from trainer.data.dataset import WindowedDataset
from trainer.data.errors import DatasetError
from trainer.data.lerobot import LeRobotReader
from trainer.data.lerobot.video_camera import VideoCamera
from trainer.data.loader import BatchLoader
from trainer.data.windows import Window

TOP = "observation.images.top"
WINDOWS = [Window(TOP, (-1, 0)), Window("action", (0,))]


@pytest.fixture
def root(tmp_path):
    return write_dataset(tmp_path / "set", film_episodes((9, 4, 14)), features=FILM_FEATURES)


def opened(root, cache, **options):
    return WindowedDataset(LeRobotReader(root), WINDOWS, frame_cache=cache, **options)


def arrays(cache):
    return sorted(cache.glob("*.npy"))


def test_frames_are_those_that_are_decoded(root, tmp_path, monkeypatch):
    decoded = opened(root, None)
    cached = opened(root, tmp_path / "cache")
    rows = np.random.default_rng(0).integers(0, 27, 50)
    expected = decoded.__getitems__(rows)
    found = cached.__getitems__(rows)
    assert all(torch.equal(found[key], expected[key]) for key in expected if key != "task")
    [array] = arrays(tmp_path / "cache")
    assert np.load(array, mmap_mode="r").shape == (27, 3, 32, 48)
    every = decoded.__getitems__(range(27))[TOP]
    # Once built, nothing is decoded any more.
    monkeypatch.setattr(VideoCamera, "read", None)
    again = opened(root, tmp_path / "cache")
    assert torch.equal(again.__getitems__(rows)[TOP], expected[TOP])
    assert torch.equal(pickle.loads(pickle.dumps(again)).__getitems__(rows)[TOP], expected[TOP])
    for batch in BatchLoader(again, batch_size=5, num_workers=2).epoch(0):
        assert torch.equal(batch[TOP], every[batch["index"]].float() / 255)


def test_other_frames_have_another_file(root, tmp_path):
    cache = tmp_path / "cache"
    opened(root, cache)
    opened(root, cache, episodes=[0, 2])
    assert len(arrays(cache)) == 2
    film = root / f"videos/{TOP}/chunk-000/file-000.mp4"
    stat = film.stat()
    os.utime(film, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
    opened(root, cache)  # touched, but not changed
    assert len(arrays(cache)) == 2
    copy = tmp_path / "copy"
    root.rename(copy)
    opened(copy, cache)  # the same content in another place
    assert len(arrays(cache)) == 2
    other = write_dataset(root, [*film_episodes((9, 4, 14))][::-1], features=FILM_FEATURES)
    found = opened(other, cache).__getitems__([0])
    assert len(arrays(cache)) == 3
    assert torch.equal(found[TOP], opened(other, None).__getitems__([0])[TOP])


def test_a_cache_is_whole_or_absent(root, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setattr(frame_cache, "BYTES_AT_ONCE", 5 * 3 * 32 * 48)
    read, calls = VideoCamera.read, []

    def failing(self, rows):
        calls.append(len(rows))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return read(self, rows)

    monkeypatch.setattr(VideoCamera, "read", failing)
    with pytest.raises(KeyboardInterrupt):
        opened(root, cache)
    assert arrays(cache) == []
    assert not list(cache.glob("*.incomplete"))
    opened(root, cache)
    [array] = arrays(cache)
    left_over = cache / f".{array.name}.12345.incomplete"  # of a process that was killed
    left_over.write_bytes(b"x")
    array.unlink()
    opened(root, cache)
    assert not left_over.exists()
    assert max(calls) == 5  # memory is that of a few frames


def _open_in_child(root, cache, results):
    dataset = opened(root, cache)
    results.put((os.getpid(), dataset.__getitems__([5])[TOP].sum().item()))


def test_processes_build_it_once_between_them(root, tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    children = [
        context.Process(target=_open_in_child, args=(root, tmp_path / "cache", results)) for _ in range(3)
    ]
    for child in children:
        child.start()
    sums = {results.get(timeout=60)[1] for _ in children}
    for child in children:
        child.join()
    assert len(sums) == len(arrays(tmp_path / "cache")) == 1
    assert not list((tmp_path / "cache").glob("*.lock"))


def test_no_room(root, tmp_path, monkeypatch):
    monkeypatch.setattr(disk_cache.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(
        DatasetError, match=r"decoded frames of 'observation\.images\.top' take 0.0 GB, there are"
    ):
        opened(root, tmp_path / "cache")


def test_a_cache_that_was_cut(root, tmp_path):
    dataset = opened(root, tmp_path / "cache")
    [array] = arrays(tmp_path / "cache")
    os.truncate(array, 1000)
    with pytest.raises(DatasetError, match=r"\.npy: the cached frames end early; remove the file"):
        dataset.__getitems__([20])
