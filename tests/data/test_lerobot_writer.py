from __future__ import annotations

import filecmp
import json
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.dataset_samples import FEATURES, make_episodes, write_dataset

from trainer.data.errors import DatasetError
from trainer.data.lerobot import LeRobotReader, LeRobotWriter


def files_below(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_equal_input_gives_equal_bytes(tmp_path):
    for name in ("a", "b"):
        write_dataset(tmp_path / name, make_episodes(), metadata={"seed": 3})
    names = files_below(tmp_path / "a")
    assert names == files_below(tmp_path / "b")
    assert filecmp.cmpfiles(tmp_path / "a", tmp_path / "b", names, shallow=False)[0] == names


def test_the_info_says_what_was_written(tmp_path):
    root = write_dataset(tmp_path / "set", make_episodes(), fps=20, metadata={"seed": 3})
    info = json.loads((root / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0"
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (5, 36, 2)
    assert info["splits"] == {"train": "0:5"}
    assert info["trainer"] == {"seed": 3}
    assert info["features"]["timestamp"] == {"dtype": "float32", "shape": [1], "names": None}
    assert info["features"]["observation.touch"]["shape"] == [3, 2]


def test_one_row_group_per_episode_and_a_description_for_the_datasets_library(tmp_path):
    root = write_dataset(tmp_path / "set", make_episodes())
    file = pq.ParquetFile(root / "data/chunk-000/file-000.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [7, 3, 12, 5, 9]
    assert str(file.schema_arrow.field("action").type) == "fixed_size_list<element: float>[2]"
    described = json.loads(file.schema_arrow.metadata[b"huggingface"])["info"]["features"]
    assert list(described) == file.schema_arrow.names
    assert described["action"] == {
        "feature": {"dtype": "float32", "_type": "Value"},
        "length": 2,
        "_type": "List",
    }
    assert described["observation.touch"] == {"shape": [3, 2], "dtype": "float32", "_type": "Array2D"}


def test_bookkeeping(tmp_path):
    reader = LeRobotReader(write_dataset(tmp_path / "set", make_episodes([4, 3, 5]), fps=30))
    columns = reader.columns(["timestamp", "frame_index", "episode_index", "index", "task_index"])
    np.testing.assert_array_equal(columns["frame_index"], [0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 3, 4])
    np.testing.assert_array_equal(columns["episode_index"], [0] * 4 + [1] * 3 + [2] * 5)
    np.testing.assert_array_equal(columns["index"], np.arange(12))
    np.testing.assert_array_equal(columns["task_index"], [0] * 4 + [1] * 3 + [0] * 5)
    np.testing.assert_array_equal(columns["timestamp"], (columns["frame_index"] / 30).astype(np.float32))


def test_statistics_of_the_whole_and_of_each_episode(tmp_path):
    episodes = make_episodes([6, 9, 5])
    root = write_dataset(tmp_path / "set", episodes, data_file_mb=1e-5)
    stats = json.loads((root / "meta/stats.json").read_text())
    whole = np.concatenate([episode["action"] for episode in episodes]).astype(np.float64)
    np.testing.assert_allclose(stats["action"]["mean"], whole.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(stats["action"]["std"], whole.std(axis=0), rtol=1e-12)
    np.testing.assert_allclose(stats["action"]["q10"], np.quantile(whole, 0.1, axis=0), rtol=1e-12)
    assert stats["action"]["count"] == [20]
    assert set(stats["action"]) == {"min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99"}
    assert np.shape(stats["observation.touch"]["mean"]) == (3, 2)
    rows = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    for row, episode in zip(rows, episodes, strict=True):
        assert row["tasks"] == [f"task {row['episode_index'] % 2}"]
        assert row["stats/action/count"] == [row["length"]]
        np.testing.assert_allclose(row["stats/action/max"], episode["action"].max(axis=0))
        np.testing.assert_allclose(
            row["stats/observation.touch/min"], episode["observation.touch"].min(axis=0)
        )


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda c: c.pop("action"), "episode 1 lacks the feature 'action'"),
        (lambda c: c.update(extra=np.zeros((4, 1))), "'extra', which is not among the features"),
        (
            lambda c: c.update(action=np.zeros((4, 3), np.float32)),
            r"'action' has shape \(4, 3\), it should be \(T, 2\)",
        ),
        (lambda c: c.update(action=np.zeros((3, 2), np.float32)), "the lengths of the columns disagree"),
        (
            lambda c: c.update(action=np.full((4, 2), np.nan)),
            "'action' has NaN or an infinite number in frame 0",
        ),
        (lambda c: c.update(phase=np.zeros((4, 1))), "'phase' is float64, which does not fit int64"),
    ],
)
def test_an_episode_that_does_not_fit(tmp_path, change, text):
    good, bad = make_episodes([4, 4])
    change(bad)
    with pytest.raises(DatasetError, match=text):
        write_dataset(tmp_path / "set", [good, bad])
    assert list(tmp_path.iterdir()) == []


def test_an_empty_episode_and_an_empty_dataset(tmp_path):
    with pytest.raises(DatasetError, match="episode 0 is empty"):
        write_dataset(tmp_path / "set", make_episodes([0]))
    with pytest.raises(DatasetError, match="no episode was added"):
        write_dataset(tmp_path / "set", [])
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path):
    write_dataset(tmp_path / "set", make_episodes())
    with pytest.raises(DatasetError, match="it exists already"):
        write_dataset(tmp_path / "set", make_episodes())
    assert len(LeRobotReader(tmp_path / "set")) == 36


@pytest.mark.parametrize(
    ("features", "text"),
    [
        ({"index": {"dtype": "int64", "shape": [1]}}, "'index' is written by itself"),
        ({"cam": {"dtype": "image", "shape": [4, 4, 3]}}, "'cam' holds image frames"),
        ({"a/b": {"dtype": "float32", "shape": [1]}}, "has a slash"),
        ({"a": {"dtype": "float32", "shape": []}}, "has 0 dimensions"),
        ({}, "at least one feature"),
    ],
)
def test_features_that_cannot_be_written(tmp_path, features, text):
    with pytest.raises(DatasetError, match=text):
        LeRobotWriter(tmp_path / "set", fps=10, features=features)


def test_an_exception_leaves_nothing(tmp_path):
    episodes = make_episodes()

    def interrupted():
        with LeRobotWriter(tmp_path / "set", fps=10, features=FEATURES) as writer:
            writer.add_episode(episodes[0], "task")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_no_dataset_and_is_no_hindrance(tmp_path):
    script = """
        import sys, time
        import numpy as np
        from trainer.data.lerobot import LeRobotWriter
        features = {"action": {"dtype": "float32", "shape": [1], "names": None}}
        with LeRobotWriter(sys.argv[1], fps=10, features=features) as writer:
            writer.add_episode({"action": np.ones((5, 1), np.float32)}, "task")
            print("written", flush=True)
            time.sleep(60)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "set")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert [path.name for path in tmp_path.iterdir()] == ["set.incomplete"]
    write_dataset(tmp_path / "set", make_episodes())
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_an_older_dataset_makes_way_when_the_new_one_is_whole(tmp_path):
    root = write_dataset(tmp_path / "set", make_episodes([5]))
    with pytest.raises(DatasetError, match="exists already"):
        write_dataset(root, make_episodes([7, 8]))
    with pytest.raises(DatasetError, match="lacks the feature"):
        write_dataset(root, [*make_episodes([7]), {}], replace=True)
    assert LeRobotReader(root).episodes.length.tolist() == [5]
    write_dataset(root, make_episodes([7, 8]), replace=True)
    assert LeRobotReader(root).episodes.length.tolist() == [7, 8]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
