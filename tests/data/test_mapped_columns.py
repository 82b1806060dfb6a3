from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers.dataset_samples import make_episodes, write_dataset

from trainer.data.dataset import WindowedDataset
from trainer.data.errors import DatasetError
from trainer.data.lerobot import LeRobotReader, reader
from trainer.data.loader import BatchLoader
from trainer.data.statistics import column_statistics
from trainer.data.windows import Window

STATE = "observation.state"
WINDOWS = [Window(STATE, (-1, 0)), Window("action", (0, 1, 2))]


@pytest.fixture
def root(tmp_path):
    return write_dataset(tmp_path / "set", make_episodes())


@pytest.fixture
def small_memory(monkeypatch):
    monkeypatch.setattr(reader, "MAPPED_ABOVE", 8 * 36)  # the bookkeeping of the 36 frames stays in memory


def mapped(array):
    while array is not None:
        if isinstance(array, np.memmap):
            return True
        array = array.base
    return False


@pytest.mark.parametrize("episodes", [None, [1, 2], [0, 3]])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_and_statistics_are_those_of_columns_in_memory(
    root, tmp_path, monkeypatch, episodes, workers
):
    def read(folder):
        dataset = WindowedDataset(LeRobotReader(root, cache=folder), WINDOWS, ["observation.touch"], episodes)
        loader = BatchLoader(dataset, batch_size=4, num_workers=workers)
        return dataset, list(loader.epoch(0)), dataset.statistics([STATE, "action"])

    dataset, batches, stats = read(tmp_path / "unused")
    assert not any(mapped(column) for column in dataset._columns.values())
    assert not (tmp_path / "unused").exists()
    monkeypatch.setattr(reader, "MAPPED_ABOVE", 8 * 36)
    again, found, new_stats = read(tmp_path / "cache")
    assert mapped(again._columns[STATE])
    assert not mapped(again._columns["action"])
    for a, b in zip(batches, found, strict=True):
        for key, value in a.items():
            assert torch.equal(value, b[key]) if isinstance(value, torch.Tensor) else value == b[key]
    for key, values in stats.items():
        for name, array in values.items():
            assert np.array_equal(array, new_stats[key][name])
    assert np.array_equal(again.episode_index, dataset.episode_index)


def test_a_column_is_written_once_and_again_when_its_file_changes(root, tmp_path, small_memory):
    cache = tmp_path / "cache"
    before = LeRobotReader(root, cache=cache).columns([STATE])[STATE]
    [file] = cache.glob("column-*.npy")
    stamp = file.stat().st_mtime_ns
    assert np.array_equal(LeRobotReader(root, cache=cache).columns([STATE])[STATE], before)
    assert file.stat().st_mtime_ns == stamp
    write_dataset(tmp_path / "other", make_episodes(seed=1))
    [data] = (root / "data").rglob("*.parquet")
    [other] = (tmp_path / "other" / "data").rglob("*.parquet")
    data.write_bytes(other.read_bytes())
    after = LeRobotReader(root, cache=cache).columns([STATE])[STATE]
    assert not np.array_equal(after, before)
    assert len(list(cache.glob("column-*.npy"))) == 2


def test_the_users_own_cache_folder_is_taken_where_none_is_named(root, tmp_path, small_memory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    LeRobotReader(root).columns([STATE])
    assert list((tmp_path / "xdg" / "trainer").glob("column-*.npy"))


def test_nan_is_found_in_a_column_that_is_mapped(root, tmp_path, small_memory):
    [data] = (root / "data").rglob("*.parquet")
    table = pq.read_table(data)
    values = np.stack(table[STATE].to_pylist()).astype(np.float32)
    values[8, 1] = np.nan  # the episodes have 7, 3, … frames
    place = table.schema.get_field_index(STATE)
    field = table.schema.field(place)
    pq.write_table(table.set_column(place, field, pa.array(values.tolist(), field.type)), data)
    with pytest.raises(DatasetError, match=r"'observation\.state' has NaN in frame 1 of episode 1"):
        LeRobotReader(root, cache=tmp_path / "cache").columns([STATE])
    assert not list((tmp_path / "cache").glob("*npy*"))


def test_statistics_of_some_rows():
    values = np.random.default_rng(0).integers(-9, 9, (50, 3))
    rows = np.array([3, 4, 40])
    for name, array in column_statistics(values[rows]).items():
        assert np.array_equal(array, column_statistics(values, rows)[name])
