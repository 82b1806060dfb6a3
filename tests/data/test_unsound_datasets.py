"""Datasets that contradict themselves: never read to other values, found by the inspection as by training."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers.dataset_samples import edit_json, make_episodes, write_dataset
from PIL import Image
from torch.utils.data import DataLoader, Subset, default_collate

from experiment_training.components.dataloader.lerobot_data import LerobotDatasetFactory
from trainer.config.errors import ParameterError
from trainer.data.inspection import inspect_dataset

INFO, DATA = "meta/info.json", "data/chunk-000/file-000.parquet"
EPISODES, TASKS = "meta/episodes/chunk-000/file-000.parquet", "meta/tasks.parquet"
LENGTHS = (7, 3, 12)
TOP = "observation.images.top"


@pytest.fixture
def root(tmp_path):
    return write_dataset(tmp_path / "set", make_episodes(LENGTHS))


@pytest.fixture
def in_files(tmp_path):
    """Every episode in a file of its own."""
    return write_dataset(tmp_path / "files", make_episodes(LENGTHS), data_file_mb=1e-6)


def build(root, **params):
    return LerobotDatasetFactory().build({}, {"root": str(root), **params})["dataset"]


def replace(path, name, column):
    table = pq.read_table(path)
    if name in table.column_names:
        table = table.set_column(table.column_names.index(name), name, column)
    else:
        table = table.append_column(name, column)
    pq.write_table(table, path)


def change(path, name, new):
    """Change a column, given as a list of Python values."""
    table = pq.read_table(path)
    values = table.column(name).to_pylist()
    kind = table.schema.field(name).type
    replace(path, name, pa.array(new(values), pa.list_(kind.value_type) if pa.types.is_list(kind) else kind))


def describe(root, name, **entry):
    edit_json(root / INFO, lambda info: info["features"].__setitem__(name, {"names": None, **entry}))


def refused(root, text, kind, **params):
    """Check that training refuses a dataset in one sentence; return the inspection's fault of a kind."""
    with pytest.raises(ParameterError) as caught:
        build(root, **params)
    message = str(caught.value)
    assert text in message
    assert str(root) in message
    assert "\n" not in message
    faults = [fault for fault in inspect_dataset(root, decode=True).faults if fault.kind == kind]
    assert faults
    return faults[0]


@pytest.mark.parametrize(
    ("stored", "declared", "text"),
    [
        ([0.25, 0.5], "int64", "stored as float64, 0.25 does not fit int64"),
        ([0.887, 0.0], "bool", "does not fit bool"),
        ([877, 3], "uint8", "stored as int64, 877 does not fit uint8"),
        ([-23, 3], "uint8", "-23 does not fit uint8"),
        ([2**24 + 1, 0], "float32", "16777217 does not fit float32"),
    ],
)
def test_numbers_that_contradict_their_type(root, stored, declared, text):
    rows = [[0, 0]] * 8 + [stored] * 14
    replace(
        root / DATA, "observation.x", pa.array(rows, pa.list_(pa.float64() if 0.5 in stored else pa.int64()))
    )
    if declared == "bool":
        replace(root / DATA, "observation.x", pa.array(rows, pa.list_(pa.float64())))
    describe(root, "observation.x", dtype=declared, shape=[2])
    fault = refused(root, text, "column")
    assert "'observation.x'" in fault.message
    assert "frame 1 of episode 1" in fault.message


def test_numbers_of_another_type_that_fit_are_read(root):
    values = np.arange(44).reshape(22, 2)
    replace(root / DATA, "observation.x", pa.array(values.astype(float).tolist()))
    describe(root, "observation.x", dtype="int16", shape=[2])
    batch = build(root).__getitems__(range(22))
    assert batch["observation.x"].dtype == torch.int16
    np.testing.assert_array_equal(batch["observation.x"][:, 0], values)


@pytest.mark.parametrize(
    ("rows", "shape", "text"),
    [
        ([[1.0]] * 4 + [[1.0, 2.0, 3.0]] + [[1.0, 2.0]] * 17, [2], "lists of 1 to 3 numbers, 2 are declared"),
        ([[[1.0, 2.0]] * 3] * 22, [2, 3], "rows of shape [3, 2], the dataset says [2, 3]"),
        (
            [[1.0, 2.0]] * 9 + [[1.0, None]] + [[1.0, 2.0]] * 12,
            [2],
            "without a value, the first of them frame 2",
        ),
        ([[1.0, 2.0]] * 9 + [None] + [[1.0, 2.0]] * 12, [2], "without a value, the first of them frame 2"),
    ],
)
def test_lists_of_another_shape(root, rows, shape, text):
    replace(root / DATA, "observation.x", pa.array(rows))
    describe(root, "observation.x", dtype="float64", shape=shape)
    assert "'observation.x'" in refused(root, text, "column").message


def spoil_number(root):
    path = root / "data/chunk-000/file-001.parquet"
    change(path, "action", lambda rows: [[float("nan"), 0.0], *rows[1:]])


def spoil_time(root):
    path = root / "data/chunk-000/file-001.parquet"
    change(path, "timestamp", lambda rows: [0.03, *rows[1:]])


def spoil_task(root):
    path = root / "data/chunk-000/file-001.parquet"
    change(path, "task_index", lambda rows: [7, *rows[1:]])


def remove(root):
    (root / "data/chunk-000/file-001.parquet").unlink()


def drop_column(root):
    path = root / "data/chunk-000/file-001.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["observation.state"]), path)


@pytest.mark.parametrize("damage", [spoil_number, spoil_time, spoil_task, remove, drop_column])
def test_an_episode_that_is_left_out_needs_nothing(in_files, damage):
    whole = build(in_files).__getitems__(range(22))
    damage(in_files)
    with pytest.raises(ParameterError):
        build(in_files)
    with pytest.raises(ParameterError):
        build(in_files, episodes=[1])
    dataset = build(in_files, episodes=[0, 2])
    batch = dataset.__getitems__(range(19))
    for key in ("action", "observation.state", "timestamp", "index"):
        assert torch.equal(batch[key], whole[key][[*range(7), *range(10, 22)]])


def test_an_episode_in_the_same_file_may_be_left_out(root):
    whole = build(root).__getitems__(range(22))
    change(root / DATA, "action", lambda rows: [*rows[:8], [None, float("inf")], *rows[9:]])
    change(root / DATA, "frame_index", lambda rows: [*rows[:8], 99, *rows[9:]])
    with pytest.raises(ParameterError):
        build(root)
    batch = build(root, episodes=[0, 2]).__getitems__(range(19))
    assert torch.equal(batch["action"], whole["action"][[*range(7), *range(10, 22)]])
    # A row too few in an episode that is wanted is still missed.
    pq.write_table(pq.read_table(root / DATA).slice(0, 21), root / DATA)
    with pytest.raises(ParameterError, match="the file has 11 rows of episode 2, there should be 12"):
        build(root, episodes=[2])


@pytest.mark.parametrize(
    "entry", [{}, {"dtype": "float32", "shape": [0]}, {"dtype": "complex64", "shape": [1]}, None, "float32"]
)
def test_a_feature_that_nobody_uses_may_be_broken(root, entry):
    edit_json(root / INFO, lambda info: info["features"].__setitem__("strange", entry))
    assert len(build(root)) == 22
    assert [fault.feature for fault in inspect_dataset(root).faults] == ["strange"]
    with pytest.raises(ParameterError, match="'strange'"):
        build(root, features=["strange"])


@pytest.mark.parametrize(
    ("texts", "text"),
    [
        ([(0, "task 0"), (1, "task 1"), (0, "throw it away")], "two texts, 'task 0' and 'throw it away'"),
        ([(0, "task 0"), (1, None)], "task 1 has None where its text should be"),
        ([(0, ["a", "b"]), (1, "task 1")], "where its text should be"),
        ([(0.5, "task 0"), (1, "task 1")], "task_index must be a whole number, it is 0.5"),
        ([(True, "task 0"), (1, "task 1")], "task_index must be a whole number"),
    ],
)
def test_tasks_that_contradict_themselves(root, texts, text):
    as_v21(root, [json.dumps({"task_index": i, "task": t}) for i, t in texts])
    refused(root, text, "metadata")


def test_a_table_of_tasks_that_contradicts_itself(root):
    pq.write_table(pa.table({"task_index": [0, 1, 0], "task": ["task 0", "task 1", "other"]}), root / TASKS)
    refused(root, "task 0 has two texts, 'task 0' and 'other'", "metadata")


def test_rows_with_another_task_than_their_episode(root):
    change(root / DATA, "task_index", lambda rows: [*rows[:7], 0, 0, 0, *rows[10:]])
    text = "the rows of episode 1 have the task 'task 0', which the episode table does not give it"
    assert refused(root, text, "task_index").episodes == (1,)
    # Of an episode table that has other words than the tasks nothing is concluded.
    change(root / EPISODES, "tasks", lambda rows: [["in other words"]] * 3)
    assert len(build(root)) == 22


def as_v21(root, tasks):
    """Lay a dataset out as format v2.1, with these lines for its tasks."""
    table = pq.read_table(root / DATA)
    begin = 0
    for number, length in enumerate(LENGTHS):
        pq.write_table(table.slice(begin, length), root / f"data/chunk-000/episode_{number:06d}.parquet")
        begin += length
    lines = [json.dumps({"episode_index": n, "length": length}) for n, length in enumerate(LENGTHS)]
    (root / "meta/episodes.jsonl").write_text("\n".join(lines))
    (root / "meta/tasks.jsonl").write_text("\n".join(tasks), encoding="utf-8")
    (root / DATA).unlink()
    template = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    edit_json(root / INFO, lambda info: info.update(codebase_version="v2.1", data_path=template))


def test_a_line_of_json_ends_at_a_line_feed_only(root):
    texts = ("pick\u2028it up", "place\u0085it")
    as_v21(root, [json.dumps({"task_index": i, "task": t}, ensure_ascii=False) for i, t in enumerate(texts)])
    assert build(root).__getitems__([0, 8])["task"] == list(texts)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("episodes.jsonl", '{"episode_index": "0", "length": 7}'),
        ("episodes.jsonl", '{"episode_index": 0, "length": null}'),
        ("episodes.jsonl", '{"episode_index": 0, "length": 7, "tasks": "task 0"}'),
        ("tasks.jsonl", b"\xff"),
    ],
)
def test_metadata_of_another_type(root, name, line):
    as_v21(root, ['{"task_index": 0, "task": "a"}', '{"task_index": 1, "task": "b"}'])
    path = root / "meta" / name
    first = line if isinstance(line, bytes) else line.encode()
    path.write_bytes(first + b"\n" + b"\n".join(path.read_bytes().split(b"\n")[1:]))
    assert name in refused(root, name, "metadata").message


@pytest.mark.parametrize(
    "entry",
    [{"total_frames": 22.5}, {"total_episodes": 1e400}, {"chunks_size": 0, "codebase_version": "v2.1"}],
)
def test_numbers_of_info_that_are_none(root, entry):
    edit_json(root / INFO, lambda info: info.update(entry))
    refused(root, "info.json", "metadata")


def test_bookkeeping_of_another_kind(root):
    describe(root, "index", dtype="float64", shape=[1])
    refused(root, "'index' is declared as float64, it has to be int64", "metadata")


def test_an_episode_in_another_file_than_listed(in_files):
    change(in_files / EPISODES, "data/file_index", lambda rows: [0, 0, 2])
    paths = [in_files / f"data/chunk-000/file-00{n}.parquet" for n in range(3)]
    pq.write_table(pa.concat_tables([pq.read_table(paths[1]), pq.read_table(paths[2])]), paths[2])
    fault = refused(in_files, "file-000.parquet", "episode_rows")
    assert "file-002.parquet: rows of episode 1 are in it" in fault.message
    assert fault.episodes == (1,)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def pictures(root):
    pixels = np.random.default_rng(0).integers(0, 256, (22, 8, 10, 3), dtype=np.uint8)
    cells = [{"bytes": png(one), "path": None} for one in pixels]
    replace(root / DATA, TOP, pa.array(cells, pa.struct({"bytes": pa.binary(), "path": pa.string()})))
    describe(root, TOP, dtype="image", shape=[8, 10, 3])
    return pixels


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (lambda cell: {"bytes": cell["bytes"][:60]}, "cannot be read, first frame 1 of episode 1"),
        (lambda cell: {"bytes": png(np.zeros((4, 10, 3), np.uint8))}, "it has 4 × 10 pixels"),
        (lambda cell: {"bytes": None, "path": "/nowhere/1.png"}, "there is no file /nowhere/1.png"),
        (lambda cell: {"bytes": png(np.full((8, 10), 40000, np.uint16))}, "no picture of 8-bit colours"),
        (lambda cell: {"bytes": png(np.zeros((8, 10, 4), np.uint8))}, "it is partly transparent"),
    ],
)
def test_a_picture_that_training_would_die_of(root, pictures, cell, text):
    assert not [fault for fault in inspect_dataset(root, decode=True).faults if fault.feature == TOP]
    change(root / DATA, TOP, lambda cells: [*cells[:8], cell(cells[8]), *cells[9:]])
    with pytest.raises(ValueError, match=f"'{TOP}' that cannot be read, in frame 1"):
        build(root).__getitems__([8])
    [fault] = [fault for fault in inspect_dataset(root, decode=True).faults if fault.feature == TOP]
    assert (fault.kind, fault.episodes) == ("image_file", (1,))
    assert text in fault.message


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        ([3, 8, 10], ["height", "width", "channel"]),
        ([8, 10, 3], ["channels", "height", "width"]),
        ([3, 8, 10], ["c", "h", "w"]),
        ([8, 10, 3], None),
    ],
)
def test_the_axis_of_three_is_that_of_the_colours(root, pictures, shape, names):
    describe(root, TOP, dtype="image", shape=shape, names=names)
    batch = build(root).__getitems__(range(22))
    np.testing.assert_array_equal(batch[TOP].numpy().transpose(0, 2, 3, 1), pictures)


def test_a_camera_without_colours_is_a_fault(root, pictures):
    describe(root, TOP, dtype="image", shape=[8, 10, 4], names=["height", "width", "channels"])
    fault = refused(root, "shape [8, 10, 4] (named height, width, channels)", "camera_kind")
    assert "4-channel frames" in fault.message


def test_a_feature_with_the_name_of_flags(root):
    replace(root / DATA, "observation.state_is_pad", pa.array([False] * 22))
    describe(root, "observation.state_is_pad", dtype="bool", shape=[1])
    refused(root, "has the name of the flags of the window of 'observation.state'", "name")
    assert len(build(root, features=["observation.state"])) == 22


@pytest.mark.parametrize(
    ("kind", "largest", "dtype"),
    [("int64", 4, torch.float32), ("bool", 1, torch.float32), ("int64", 2**40, torch.float64)],
)
def test_whole_numbers_are_predicted_as_floats(root, kind, largest, dtype):
    values = np.random.default_rng(0).integers(0, largest, (22, 2), endpoint=True)
    values[0] = largest
    replace(root / DATA, "action", pa.array(values.astype(kind).tolist()))
    describe(root, "action", dtype=kind, shape=[2])
    built = LerobotDatasetFactory().build({}, {"root": str(root)})
    action = built["dataset"].__getitems__(range(22))["action"]
    assert action.dtype == dtype
    np.testing.assert_array_equal(action[:, 0], values)
    assert built["dataset"].facts()["features"]["action"]["dtype"] == str(dtype).removeprefix("torch.")
    np.testing.assert_allclose(built["norm_stats"]["action"]["mean"], values.mean(axis=0))


def test_torchs_own_loader_reads_a_dataset(root):
    dataset = build(root, action_horizon=3)
    expected = default_collate([dataset[i] for i in range(22)])
    for wrapped in (dataset, Subset(dataset, range(22))):
        [batch] = DataLoader(wrapped, batch_size=32)
        assert type(batch) is dict
        assert batch.keys() == expected.keys()
        for key, value in expected.items():
            assert torch.equal(batch[key], value) if isinstance(value, torch.Tensor) else batch[key] == value
    shuffled = torch.cat([batch["index"] for batch in DataLoader(dataset, batch_size=5, shuffle=True)])
    assert sorted(shuffled.tolist()) == list(range(22))
    [batch] = DataLoader(dataset, batch_size=22, num_workers=1)
    assert torch.equal(batch["action"], expected["action"])
    samples = dataset.__getitems__([3, 5])
    assert default_collate([samples[0], samples[1]])["index"].tolist() == [3, 5]
    assert dataset.__getitems__(np.array([3, 5]))["index"].tolist() == [3, 5]
    with pytest.raises(KeyError, match="nothing"):
        samples["nothing"]
