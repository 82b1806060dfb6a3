from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.dataset_samples import FEATURES, make_episodes, recorded_pusht, write_dataset

from trainer.data.errors import DatasetError
from trainer.data.lerobot import LeRobotReader
from trainer.data.statistics import column_statistics

DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"


@pytest.fixture
def root(tmp_path):
    return write_dataset(tmp_path / "set", make_episodes())


def edit_info(root, **changes):
    path = root / "meta" / "info.json"
    info = json.loads(path.read_text())
    info.update(changes)
    path.write_text(json.dumps({key: value for key, value in info.items() if value is not ...}))


def edit_parquet(path, change):
    table = pq.read_table(path)
    pq.write_table(change(table), path)


def replaced(table, name, values):
    array = values if isinstance(values, pa.Array) else pa.array(values, table.column(name).type)
    return table.set_column(table.column_names.index(name), name, array)


def test_numbers_of_a_dataset_that_lerobot_wrote():
    root = recorded_pusht()
    reader = LeRobotReader(root)
    assert (len(reader), len(reader.episodes), reader.fps) == (25650, 206, 10)
    assert reader.tasks == ["Push the T-shaped block onto the T-shaped target."]
    assert reader.features["observation.image"].is_frames
    assert reader.features["observation.state"].names == ["agent_x", "agent_y"]
    table = pq.read_table(root / DATA)
    columns = reader.columns(reader.numeric_features())
    for key, column in columns.items():
        assert column.flags.c_contiguous
        expected = np.array(table.column(key).to_pylist(), dtype=column.dtype)
        np.testing.assert_array_equal(column, expected)
    assert columns["action"].shape == (25650, 2)
    assert columns["timestamp"].dtype == np.float32
    np.testing.assert_allclose(
        columns["timestamp"], (columns["frame_index"] / 10).astype(np.float32), rtol=0, atol=0
    )
    for episode in (0, 17, 205):
        start, length = reader.episodes.start[episode], reader.episodes.length[episode]
        assert set(columns["episode_index"][start : start + length]) == {episode}


def test_exact_statistics_of_a_recorded_dataset_agree_with_those_stored():
    reader = LeRobotReader(recorded_pusht())
    for key, column in reader.columns(["action", "observation.state"]).items():
        exact, stored = column_statistics(column), reader.stats[key]
        for name in ("min", "max", "count"):
            np.testing.assert_array_equal(exact[name], stored[name])
        np.testing.assert_allclose(exact["mean"], stored["mean"], rtol=1e-6)
        np.testing.assert_allclose(exact["std"], stored["std"], rtol=1e-5)


def test_several_files_in_any_order_read_like_one(tmp_path):
    episodes = make_episodes([4, 6, 5, 8, 3, 7])
    one = write_dataset(tmp_path / "one", episodes)
    many = write_dataset(tmp_path / "many", episodes, data_file_mb=1e-5)
    assert len(list((many / "data").rglob("*.parquet"))) == 6
    # Rows of the episode table shuffled over two files; rows of a data file the wrong way round.
    table = pq.read_table(many / EPISODES)
    pq.write_table(table.take([4, 0, 5]), many / EPISODES)
    pq.write_table(table.take([3, 2, 1]), many / "meta/episodes/chunk-000/file-001.parquet")
    edit_parquet(many / "data/chunk-000/file-002.parquet", lambda t: t.take(list(range(len(t)))[::-1]))
    a, b = LeRobotReader(one), LeRobotReader(many)
    for key, column in a.columns(a.numeric_features()).items():
        np.testing.assert_array_equal(column, b.columns([key])[key])
    np.testing.assert_array_equal(a.episodes.length, [4, 6, 5, 8, 3, 7])
    assert a.episodes.tasks == b.episodes.tasks


def test_two_chunks_of_files(root):
    shutil.move(root / "data/chunk-000", root / "data/chunk-003")
    edit_parquet(root / EPISODES, lambda t: replaced(t, "data/chunk_index", [3] * len(t)))
    assert LeRobotReader(root).columns(["action"])["action"].shape == (36, 2)


def test_columns_are_read_once(root):
    reader = LeRobotReader(root)
    first = reader.columns(["action"])["action"]
    shutil.rmtree(root / "data")
    assert reader.columns(["action"])["action"] is first


def test_lists_of_variable_length_and_wider_types_are_read(root):
    expected = LeRobotReader(root).columns(["action"])["action"]

    def loosen(table):
        values = pa.array(table.column("action").to_pylist(), pa.list_(pa.float64()))
        return replaced(table, "action", values)

    edit_parquet(root / DATA, loosen)
    column = LeRobotReader(root).columns(["action"])["action"]
    assert column.dtype == np.float32
    np.testing.assert_array_equal(column, expected)


def test_facts_are_json(root):
    facts = json.loads(json.dumps(LeRobotReader(root, repo_id="me/set").facts()))
    assert (facts["repo_id"], facts["episodes"], facts["frames"], facts["fps"]) == ("me/set", 5, 36, 10)
    assert facts["episode_lengths"] == {"min": 3, "mean": 7.2, "max": 12}
    assert facts["features"]["action"] == {"dtype": "float32", "shape": [2], "names": ["dx", "dy"]}
    assert facts["tasks"] == ["task 0", "task 1"]
    assert facts["robot_type"] == "arm"
    assert facts["made"] is None


def as_v21(root, old):
    """Write what `old` holds in the layout of format v2.1."""
    reader = LeRobotReader(old)
    meta = root / "meta"
    meta.mkdir(parents=True)
    info = dict(reader.info.raw) | {
        "codebase_version": "v2.1",
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "chunks_size": 2,
        "total_chunks": 3,
    }
    (meta / "info.json").write_text(json.dumps(info))
    (meta / "tasks.jsonl").write_text(
        "\n".join(json.dumps({"task_index": i, "task": t}) for i, t in enumerate(reader.tasks)) + "\n"
    )
    lines = [
        json.dumps({"episode_index": i, "tasks": list(reader.episodes.tasks[i]), "length": int(length)})
        for i, length in enumerate(reader.episodes.length)
    ]
    (meta / "episodes.jsonl").write_text("\n".join(lines) + "\n")
    table = pq.read_table(old / DATA)
    for i, (start, length) in enumerate(zip(reader.episodes.start, reader.episodes.length, strict=True)):
        path = root / f"data/chunk-{i // 2:03d}/episode_{i:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.slice(int(start), int(length)), path)
    return root


def test_format_v21(root, tmp_path):
    old = LeRobotReader(as_v21(tmp_path / "old", root))
    new = LeRobotReader(root)
    assert old.info.version == "v2.1"
    assert old.tasks == new.tasks
    assert old.stats == {}
    for key, column in new.columns(new.numeric_features()).items():
        np.testing.assert_array_equal(old.columns([key])[key], column)


def test_a_camera_is_listed_and_refused(root):
    camera = {"dtype": "video", "shape": [8, 8, 3], "names": ["height", "width", "channels"]}
    info = json.loads((root / "meta/info.json").read_text())
    edit_info(root, features={**info["features"], "observation.images.top": camera})
    reader = LeRobotReader(root)
    assert reader.features["observation.images.top"].is_frames
    assert "observation.images.top" not in reader.numeric_features("observation.")
    with pytest.raises(DatasetError, match=r"'observation.images.top' holds video frames, not numbers"):
        reader.columns(["observation.images.top"])


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda r: shutil.rmtree(r), "there is no such folder"),
        (
            lambda r: (r / "meta/info.json").unlink(),
            "no meta/info.json in it, so it is not a LeRobot dataset",
        ),
        (lambda r: (r / "meta/info.json").write_text("{"), "info.json: this is not JSON"),
        (lambda r: (r / "meta/info.json").write_text("[]"), "a JSON object is expected"),
        (lambda r: edit_info(r, fps=...), "info.json: the entry 'fps' is missing"),
        (lambda r: edit_info(r, fps=0), "fps must be a number above 0, it is 0"),
        (lambda r: edit_info(r, total_episodes=0), "the dataset is empty"),
        (lambda r: edit_info(r, codebase_version="v4.0"), "v4.0, which is newer than what can be read"),
        (lambda r: edit_info(r, codebase_version="v2.0"), "v2.0, which is older than what can be read"),
        (lambda r: edit_info(r, codebase_version="three"), "codebase_version is 'three'"),
        (lambda r: edit_info(r, features={"action": {}}), "feature 'action' needs a dtype and a shape"),
        (lambda r: edit_info(r, features={}), "the feature 'timestamp', which every dataset has, is missing"),
        (lambda r: edit_info(r, total_episodes=6), "5 episodes are listed, info.json says 6"),
        (lambda r: edit_info(r, total_frames=40), "the episodes have 36 frames, info.json says 40"),
        (lambda r: shutil.rmtree(r / "meta/episodes"), "there is no episode table in it"),
        (lambda r: (r / EPISODES).write_bytes(b"PAR1"), "file-000.parquet: the file is truncated or damaged"),
        (lambda r: (r / "meta/tasks.parquet").unlink(), "tasks.parquet: the file is missing"),
        (
            lambda r: edit_parquet(r / EPISODES, lambda t: t.drop_columns(["length"])),
            "file-000.parquet: the column 'length' is missing",
        ),
        (
            lambda r: edit_parquet(r / EPISODES, lambda t: replaced(t, "length", [7, 3, 0, 5, 9])),
            "episode 2 is empty",
        ),
        (
            lambda r: edit_parquet(r / EPISODES, lambda t: replaced(t, "length", [7, 4, 11, 5, 9])),
            "episode 2 begins at frame 10, the lengths of those before it add up to 11",
        ),
        (
            lambda r: edit_parquet(
                r / EPISODES, lambda t: replaced(t, "dataset_to_index", [7, 10, 22, 27, 35])
            ),
            "episode 4 has length 9, its frames are 27 to 35",
        ),
        (
            lambda r: edit_parquet(r / EPISODES, lambda t: replaced(t, "episode_index", [0, 1, 1, 3, 4])),
            "episode 1 is listed twice",
        ),
    ],
)
def test_damaged_metadata_is_named_as_the_dataset_is_opened(root, damage, text):
    damage(root)
    with pytest.raises(DatasetError) as caught:
        LeRobotReader(root)
    assert text in str(caught.value)
    assert str(root) in str(caught.value)
    assert "\n" not in str(caught.value)


def set_number(column, row, value):
    def change(table):
        values = table.column(column).to_pylist()
        if isinstance(values[row], list):
            values[row][1] = value
        else:
            values[row] = value
        return replaced(table, column, values)

    return change


def truncate(path):
    path.write_bytes(path.read_bytes()[:-500])


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda r: (r / DATA).unlink(), "file-000.parquet: the file is missing"),
        (lambda r: truncate(r / DATA), "file-000.parquet: the file is truncated or damaged"),
        (
            lambda r: edit_parquet(r / DATA, lambda t: t.drop_columns(["action"])),
            "file-000.parquet: the column 'action' is missing",
        ),
        (
            lambda r: edit_parquet(r / DATA, lambda t: t.slice(0, 30)),
            "has 30 rows, but the 5 episodes from 0 to 4 should have 36 in it",
        ),
        (
            lambda r: edit_parquet(r / DATA, set_number("action", 12, float("nan"))),
            "file-000.parquet: 'action' has NaN in frame 2 of episode 2 (1 such frame in the dataset)",
        ),
        (
            lambda r: edit_parquet(r / DATA, set_number("action", 35, float("inf"))),
            "'action' has an infinite number in frame 8 of episode 4",
        ),
        (
            lambda r: edit_parquet(r / DATA, set_number("action", 3, None)),
            "column 'action' has rows without a value",
        ),
        (
            lambda r: edit_parquet(r / DATA, set_number("episode_index", 8, 4)),
            "frame 1 of episode 1 has episode_index 4, it should have 1",
        ),
        (
            lambda r: edit_parquet(r / DATA, set_number("frame_index", 8, 4)),
            "frame 1 of episode 1 has frame_index 4, it should have 1",
        ),
        (
            lambda r: edit_parquet(
                r / DATA,
                lambda t: replaced(t, "action", pa.array([[1.0] * 3] * 36, pa.list_(pa.float32(), 3))),
            ),
            "column 'action' has 3 numbers per row, its shape [2] has 2",
        ),
        (
            lambda r: edit_parquet(r / DATA, lambda t: replaced(t, "action", pa.array(["x"] * 36))),
            "column 'action' holds string, the dataset says float32",
        ),
    ],
)
def test_damaged_data_is_named_as_a_column_is_read(root, damage, text):
    damage(root)
    reader = LeRobotReader(root)
    with pytest.raises(DatasetError) as caught:
        reader.columns(["action"])
    assert text in str(caught.value)
    assert str(root) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_features_and_types(root):
    info = json.loads((root / "meta/info.json").read_text())
    odd = {"dtype": "complex64", "shape": [2], "names": None}
    text = {"dtype": "string", "shape": [1], "names": None}
    edit_info(root, features={**info["features"], "observation.odd": odd, "note": text})
    reader = LeRobotReader(root)
    with pytest.raises(DatasetError, match=r"'observation.odd' has dtype 'complex64', which is not known"):
        reader.numeric_features("observation.")
    with pytest.raises(DatasetError, match="'note' holds text"):
        reader.columns(["note"])
    with pytest.raises(DatasetError, match="no feature 'actoin'; did you mean 'action'"):
        reader.columns(["actoin"])


def test_all_written_types_come_back(root):
    reader = LeRobotReader(root)
    for key, column in reader.columns(list(FEATURES)).items():
        assert column.dtype == FEATURES[key]["dtype"]
        assert column.shape == (36, *FEATURES[key]["shape"])
        expected = np.concatenate([episode[key] for episode in make_episodes()])
        np.testing.assert_array_equal(column, expected)
