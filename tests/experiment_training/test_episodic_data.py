"""HDF5 episodes: every sample against a plain loop over the files, and every mistake with its parameter."""

from __future__ import annotations

import copy
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.config.errors import ParameterError
from trainer.data.errors import DatasetError
from trainer.data.loader import BatchLoader
from trainer.data.normalization import Normalizer
from trainer.registry import DATASET_BUILDER_REGISTRY

h5py = pytest.importorskip("h5py")

from experiment_training.components.dataloader.episodic_data import (  # noqa: E402
    EpisodicDatasetFactory,
    EpisodicDatasetParams,
)

LENGTHS = {"a/episode_0.hdf5": 9, "a/episode_1.hdf5": 6, "b/episode_0.hdf5": 12}
HEIGHT, WIDTH = 16, 48  # of a whole picture: two halves side by side

TASK = {
    "robot_id": "arm",
    "task_name": "pick and place",
    "data_collection_method": "teleoperation",
    "data_collector": "somebody",
    "HZ": 20,
    "compression": True,
    "episode_len": 100,
    "image_resize": [16, 48],
    "data_dict": {
        "/observation/images/head": {},
        "/observation/images/left": {},
        "/observation/pose/left": "pose.position",
        "/observation/joint_pos/left": {"slice": [0, 3], "attr": "position"},
        "/action/joint_pos/left": {"slice": [1, 3]},
        "/action/hand": "data",
    },
}
TOPICS = [
    {"/arm/state": {"/observation/joint_pos/left": {"slice": [0, 3]}}},
    {"/arm/pose": {"fields": {"/observation/pose/left": "pose.position"}}},
    {"/arm/command": {"/action/hand": "data", "/action/joint_pos/left": {"slice": [1, 3]}}},
]


def colour(file, camera, frame):
    """Red, green and blue of the left and the right half of a picture."""
    base = 20 * file + 10 * camera + 3 * frame
    return [(200, base, 20), (20, base, 200)]


def picture(file, camera, frame):
    halves = [np.full((HEIGHT, WIDTH // 2, 3), value, np.uint8) for value in colour(file, camera, frame)]
    return np.concatenate(halves, axis=1)


def jpeg(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=98, subsampling=0)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def numbers(name, width, length, file):
    seed = np.random.SeedSequence([file, *name.encode()])
    return np.random.default_rng(seed).normal(size=(length, width)).astype(np.float32)


def write(folder, stored="jpeg", lengths=None):
    for number, (name, length) in enumerate((lengths or LENGTHS).items()):
        path = folder / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            file["observation/pose/left"] = numbers("pose", 3, length, number)
            file["observation/joint_pos/left"] = numbers("joint", 4, length, number)
            file["action/joint_pos/left"] = numbers("command", 2, length, number)  # cut out already
            file["action/hand"] = numbers("hand", 1, length, number)[:, 0]
            for camera, camera_name in enumerate(("head", "left")):
                frames = [picture(number, camera, i) for i in range(length)]
                key = f"observation/images/{camera_name}"
                if stored == "pixels":
                    file[key] = np.stack(frames)
                else:
                    codes = [jpeg(frame) for frame in frames]
                    kind = h5py.vlen_dtype(np.uint8)
                    made = file.create_dataset(key, (length,), dtype=kind)
                    for i, code in enumerate(codes):
                        made[i] = code
    tasks = folder / "tasks"
    tasks.mkdir(exist_ok=True)
    (tasks / "pick.json").write_text(json.dumps(TASK))
    (tasks / "topics.json").write_text(json.dumps({**TASK, "topics": TOPICS}))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("episodes"))


@pytest.fixture
def own(tmp_path):
    """The same for tests that damage something."""
    return write(tmp_path)


def params(**changes):
    given = {
        "task_config_path": "tasks",
        "task_name": "pick",
        "dataset_dir_l": "data",
        "chunk_size": 4,
        "robot_obs_size": 2,
        "img_obs_size": 1,
        "skip_mirrored_data": False,
    }
    return {key: value for key, value in {**given, **changes}.items() if value is not ...}


def build(folder, **changes):
    factory = DATASET_BUILDER_REGISTRY.get("episodic_dataset_factory")()
    options = {"local_rank": 0, "dist_enabled": False, "save_dir": None, "search_paths": [folder]}
    return factory.build(options, params=params(**changes))


def state_of(file, length):
    return np.concatenate(
        [numbers("pose", 3, length, file), numbers("joint", 4, length, file)[:, :3]], axis=1
    )


def action_of(file, length):
    return np.concatenate([numbers("command", 2, length, file), numbers("hand", 1, length, file)], axis=1)


@pytest.mark.parametrize("order", ["oldest_first", "newest_first"])
@pytest.mark.parametrize("offset", [0, 1])
def test_every_sample_is_what_a_plain_loop_gives(folder, order, offset):
    dataset = build(folder, history_order=order, action_offset=offset)["dataset"]
    batch = dataset.__getitems__(range(len(dataset)))
    assert len(dataset) == sum(LENGTHS.values())
    row = 0
    for file, length in enumerate(LENGTHS.values()):
        states, actions = state_of(file, length), action_of(file, length)
        for t in range(length):
            history = [t - 1, t] if order == "oldest_first" else [t, t - 1]
            chunk = [t + offset + i for i in range(4)]
            for key, values, wanted in (
                ("observation.state", states, history),
                ("action", actions, chunk),
            ):
                inside = np.clip(wanted, 0, length - 1)
                np.testing.assert_array_equal(batch[key][row].numpy(), values[inside])
                assert batch[f"{key}_is_pad"][row].tolist() == [
                    i != k for i, k in zip(wanted, inside, strict=True)
                ]
            numbers_of_row = [
                int(batch[k][row]) for k in ("episode_index", "frame_index", "index", "task_index")
            ]
            assert numbers_of_row == [file, t, row, 0]
            assert batch["timestamp"][row] == pytest.approx(t / 20)
            row += 1
    assert set(batch["task"]) == {"pick and place"}
    assert (batch["action"].dtype, batch["observation.state"].dtype) == (torch.float32, torch.float32)


@pytest.mark.parametrize("stored", ["jpeg", "pixels"])
@pytest.mark.parametrize(("half", "place"), [("left", 0), ("right", 1), ("both", None)])
def test_pictures_are_red_green_blue_of_one_half(tmp_path, stored, half, place):
    dataset = build(write(tmp_path, stored), stereo_half=half)["dataset"]
    rows = [20, 3, 3, 26]  # in any order, and again
    batch = dataset.__getitems__(rows)
    for camera, name in enumerate(("head", "left")):
        frames = batch[f"observation.images.{name}"]
        assert frames.dtype == torch.uint8
        assert frames.shape == (4, 3, HEIGHT, WIDTH if half == "both" else WIDTH // 2)
        assert not batch[f"observation.images.{name}_is_pad"].any()
        for row, frame in zip(rows, frames.numpy(), strict=True):
            file, t = int(batch["episode_index"][rows.index(row)]), int(batch["frame_index"][rows.index(row)])
            if place is None:
                wanted = picture(file, camera, t).transpose(2, 0, 1)
            else:
                wanted = np.array(colour(file, camera, t)[place])[:, None, None]
            error = np.abs(frame.astype(int) - wanted)
            # Where two colours meet, JPEG mixes them.
            assert np.median(error) <= 2


def test_a_history_of_pictures(folder):
    dataset = build(folder, img_obs_size=3, cameras=["left"])["dataset"]
    batch = dataset.__getitems__([9, 12])  # frames 0 and 3 of the second file
    frames = batch["observation.images.left"]
    assert frames.shape == (2, 3, 3, HEIGHT, WIDTH // 2)
    assert "observation.images.head" not in batch
    assert batch["observation.images.left_is_pad"].tolist() == [[True, True, False], [False] * 3]
    greens = frames[:, :, 1, 4, 4].tolist()
    wanted = [[colour(1, 1, t)[0][1] for t in history] for history in ((0, 0, 0), (1, 2, 3))]
    assert np.abs(np.array(greens) - wanted).max() <= 2
    assert torch.equal(dataset[-1]["observation.images.left"], dataset[26]["observation.images.left"])


def test_topics_give_the_order(folder):
    plain, ordered = build(folder)["dataset"], build(folder, task_name="topics")["dataset"]
    one, other = plain[4], ordered[4]
    torch.testing.assert_close(one["observation.state"][:, [3, 4, 5, 0, 1, 2]], other["observation.state"])
    torch.testing.assert_close(one["action"][:, [2, 0, 1]], other["action"])


def test_statistics_and_normalizer_are_those_of_other_data(folder):
    built = build(folder)
    stats = built["norm_stats"]
    assert set(stats) == {"observation.state", "action"}
    states = np.concatenate([state_of(i, n) for i, n in enumerate(LENGTHS.values())]).astype(np.float64)
    np.testing.assert_allclose(stats["observation.state"]["mean"], states.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(stats["observation.state"]["std"], states.std(axis=0), rtol=1e-6)
    batch = built["dataset"].__getitems__(range(27))
    normalized = Normalizer(stats).normalize(batch)
    last = normalized["observation.state"][:, -1]
    torch.testing.assert_close(last.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(last.std(0, correction=0), torch.ones(6), atol=1e-5, rtol=0)
    assert normalized["observation.images.head"].dtype == torch.uint8


def test_order_is_that_of_the_paths_and_nothing_random(folder):
    np.random.seed(0)
    first = build(folder)["dataset"].__getitems__(range(27))
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    second = build(folder)["dataset"].__getitems__(range(27))
    assert (np.random.get_state()[1] == before).all()
    for key in first:
        assert first[key] == second[key] if key == "task" else torch.equal(first[key], second[key])


@pytest.mark.parametrize("memory", [0, 7 * 2 * 3 * HEIGHT * WIDTH // 2, 2**20])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_reads_the_same(folder, workers, memory, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # two batches are read at once
    dataset = build(folder)["dataset"]
    _ = dataset[0]  # so that files are open when the workers begin
    loader = BatchLoader(dataset, batch_size=5, seed=3, num_workers=workers, frame_memory=memory)
    fresh = build(folder)["dataset"]
    for epoch in range(3):
        batches = list(loader.epoch(epoch))
        assert len(batches) == 5
        for batch in batches:
            expected = fresh.__getitems__(batch["index"].tolist())
            for camera in ("head", "left"):
                key = f"observation.images.{camera}"
                assert torch.equal(batch[key], expected[key].float() / 255)
            assert torch.equal(batch["action"], expected["action"])


def test_pictures_that_fit_into_memory_are_read_once(folder, monkeypatch):
    from experiment_training.components.dataloader.hdf5_episodes import Hdf5Camera

    dataset = build(folder)["dataset"]
    loader = BatchLoader(dataset, batch_size=5, frame_memory=2**20)
    read, count = Hdf5Camera.read, []
    monkeypatch.setattr(Hdf5Camera, "read", lambda self, rows: count.extend(rows) or read(self, rows))
    for epoch in range(4):
        list(loader.epoch(epoch))
    assert len(count) <= 2 * 27


def test_files_that_are_no_episodes_are_left_out(own):
    data = own / "data"
    for name in ("a/episode_0_features.hdf5", "a/notes.txt"):
        (data / name).write_text("no episode")
    content = (data / "a/episode_0.hdf5").read_bytes()
    (data / "a/episode_0_mirror.hdf5").write_bytes(content)
    assert len(build(own, skip_mirrored_data=True)["dataset"]) == 27
    assert len(build(own, skip_mirrored_data=False)["dataset"]) == 36


def test_facts(folder):
    facts = build(folder, img_obs_size=2)["dataset"].facts()
    assert (facts["fps"], facts["episodes"], facts["frames"], facts["robot_type"]) == (20, 3, 27, "arm")
    assert facts["windows"]["observation.images.head"] == [-1, 0]
    assert facts["features"]["observation.state"]["shape"] == [6]
    assert facts["features"]["observation.images.head"]["shape"] == [HEIGHT, WIDTH // 2, 3]
    assert facts["episode_lengths"] == {"min": 6, "mean": 9, "max": 12}
    json.dumps(facts)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system does not list open files")
def test_many_files_do_not_stay_open(tmp_path, monkeypatch):
    from experiment_training.components.dataloader import hdf5_episodes

    monkeypatch.setattr(hdf5_episodes, "MAX_OPEN", 2)
    dataset = build(write(tmp_path, "pixels", {f"e{i}.hdf5": 3 for i in range(6)}), chunk_size=2)["dataset"]
    batch = dataset.__getitems__(range(18))
    held = [file.readlink() for file in Path("/proc/self/fd").iterdir() if file.is_symlink()]
    assert len([path for path in held if tmp_path in path.parents]) == 2
    greens = batch["observation.images.head"][:, 1, 0, 0].tolist()
    assert greens == [colour(i, 0, t)[0][1] for i in range(6) for t in range(3)]


def test_a_damaged_picture_harms_its_own_samples_only(own):
    with h5py.File(own / "data/a/episode_1.hdf5", "r+") as file:
        file["observation/images/head"][4] = np.arange(50, dtype=np.uint8)
    dataset = build(own)["dataset"]
    dataset.__getitems__([r for r in range(27) if r != 13])
    with pytest.raises(
        DatasetError, match=r"episode_1.hdf5: frame 4 of observation/images/head cannot be read"
    ):
        dataset.__getitems__([12, 13])


def in_file(name, change):
    def damage(folder):
        with h5py.File(folder / "data" / name, "r+") as file:
            change(file)

    return damage


def in_task(change):
    def damage(folder):
        task = copy.deepcopy(TASK)
        change(task)
        (folder / "tasks/pick.json").write_text(json.dumps(task))

    return damage


def replace(key, values):
    def change(file):
        del file[key]
        file[key] = values

    return change


def put(key, place, value):
    def change(file):
        file[key][place] = value

    return change


def text(path, content):
    return lambda folder: (folder / path).write_text(content)


ONE = "a/episode_1.hdf5"


@pytest.mark.parametrize(
    ("damage", "param", "sentence"),
    [
        (text(f"data/{ONE}", "no"), "dataset_dir_l", "episode_1.hdf5: the file is damaged"),
        (
            in_file(ONE, lambda f: f.pop("action/hand")),
            "dataset_dir_l",
            "episode_1.hdf5: there is no action/hand",
        ),
        (
            in_file(ONE, lambda f: f.pop("observation/images/left")),
            "dataset_dir_l",
            "episode_1.hdf5: there is no observation/images/left",
        ),
        (
            in_file(ONE, replace("action/hand", np.zeros(5))),
            "dataset_dir_l",
            "episode_1.hdf5: the numbers of frames disagree: action/joint_pos/left has 6, action/hand has 5",
        ),
        (
            in_file(ONE, replace("observation/pose/left", np.zeros((6, 4)))),
            "dataset_dir_l",
            "episode_1.hdf5: observation/pose/left has 4 columns, the task says 3",
        ),
        (
            in_file(ONE, replace("observation/joint_pos/left", np.zeros((6, 2)))),
            "dataset_dir_l",
            "observation/joint_pos/left has 2 columns, the task takes 0 to 3",
        ),
        (
            in_file(ONE, put("observation/pose/left", (2, 1), np.nan)),
            "dataset_dir_l",
            "episode_1.hdf5: the observation has NaN or an infinite number in frame 2",
        ),
        (
            in_file(ONE, replace("action/hand", np.full(6, 2**24 + 1))),
            "dataset_dir_l",
            "episode_1.hdf5: action/hand: stored as int64, 16777217 does not fit float32, in frame 0",
        ),
        (
            in_file(ONE, lambda f: (f.pop("action/hand"), f.create_group("action/hand"))),
            "dataset_dir_l",
            "episode_1.hdf5: action/hand is a group of arrays",
        ),
        (
            in_task(lambda t: t["data_dict"].update({"/action/hand": [1, 2]})),
            "task_name",
            "/action/hand is [1, 2], which is neither a slice nor one of",
        ),
        (in_task(lambda t: t.pop("compression")), "task_name", "the entry 'compression' is missing"),
        (in_task(lambda t: t.update(HZ="fast")), "task_name", "HZ must be a number above 0, it is 'fast'"),
        (
            in_task(lambda t: t["data_dict"].update({"/action/hand": "pose.speed"})),
            "task_name",
            "/action/hand is 'pose.speed', which is neither a slice nor one of",
        ),
        (
            in_task(lambda t: t["data_dict"].update({"/action/hand": {"slice": [3, 1]}})),
            "task_name",
            "the slice of /action/hand must be",
        ),
        (
            in_task(lambda t: t.update(data_dict={"/observation/pose/left": "pose.position"})),
            "task_name",
            "no field begins with /action/",
        ),
        (text("tasks/pick.json", "{"), "task_name", "this is not JSON"),
    ],
)
def test_what_is_wrong_with_the_files(own, damage, param, sentence):
    damage(own)
    with pytest.raises(ParameterError) as caught:
        build(own)
    assert caught.value.param == param
    assert sentence in caught.value.message


@pytest.mark.parametrize(
    ("changes", "param", "sentence"),
    [
        ({"chunk_size": 13}, "chunk_size", "longer than every episode"),
        ({"robot_obs_size": 13}, "robot_obs_size", "longer than every episode"),
        ({"img_obs_size": 13}, "img_obs_size", "longer than every episode"),
        ({"img_obs_size": 2, "cameras": []}, "img_obs_size", "no camera is used"),
        ({"chunk_size": 0}, "chunk_size", "greater than 0"),
        ({"chunk_size": ...}, "chunk_size", "this key is required"),
        ({"chunk_sise": 3}, "chunk_sise", "unknown key"),
        ({"task_name": "pic"}, "task_name", "has no pic.json"),
        ({"task_config_path": "task"}, "task_config_path", "there is no folder task"),
        ({"dataset_dir_l": "none"}, "dataset_dir_l", "there is no folder none"),
        ({"dataset_dir_l": "tasks"}, "dataset_dir_l", "has no episode"),
        ({"cameras": ["haed"]}, "cameras", "has no camera 'haed'"),
        ({"cameras": "head"}, "cameras", "valid list"),
        ({"stereo_half": "top"}, "stereo_half", "'left', 'right' or 'both'"),
        ({"history_order": "newest"}, "history_order", "'oldest_first' or 'newest_first'"),
        ({"skip_mirrored_data": "some"}, "skip_mirrored_data", "valid boolean"),
        ({"action_offset": 0.5}, "action_offset", "valid integer"),
        ({"dataset_dir_l": 3}, "dataset_dir_l", "valid string"),
    ],
)
def test_what_is_wrong_with_the_parameters(folder, changes, param, sentence):
    with pytest.raises(ParameterError) as caught:
        build(folder, **changes)
    assert caught.value.param == param
    assert sentence in caught.value.message
    assert EpisodicDatasetFactory.parameters is EpisodicDatasetParams


def test_a_missing_library_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    monkeypatch.delitem(sys.modules, "experiment_training.components.dataloader.hdf5_episodes", raising=False)
    with pytest.raises(ParameterError, match=r"needs h5py.*trainer-il\[hdf5\]"):
        build(folder)


def test_a_policy_is_trained_on_it(tmp_path, tiny_experiment):
    from trainer.offline_trainer import train

    task = {
        **TASK,
        "data_dict": {"/observation/joints": {"slice": [0, 5]}, "/action/joints": {"slice": [0, 2]}},
    }
    (tmp_path / "follow.json").write_text(json.dumps(task))
    for i in range(3):
        with h5py.File(tmp_path / f"episode_{i}.hdf5", "w") as file:
            states = numbers("joints", 5, 30, i).cumsum(axis=0)
            file["observation/joints"], file["action/joints"] = states, states[:, :2] * 0.5

    def change(config):
        config["plugins"].append("experiment_training.components.dataloader.episodic_data")
        config["data"]["datamodule"] = {
            "type": "episodic_dataset_factory",
            "params": {
                **params(task_config_path=str(tmp_path), dataset_dir_l=str(tmp_path), task_name="follow"),
                "chunk_size": 4,
            },
        }

    train(str(tiny_experiment(change)))
    run = Path(tmp_path / "run")
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(records) == 10
    assert all(np.isfinite(record["total"]) for record in records)
    assert json.loads((run / "dataset.json").read_text())["episodes"] == 3


def test_a_field_that_grows_at_the_cost_of_another(own):
    free = {"/observation/pose/left": {}, "/observation/joint_pos/left": {}}
    in_task(lambda t: t["data_dict"].update(free))(own)
    assert build(own)["dataset"].__getitems__([0])["observation.state"].shape == (1, 2, 7)
    in_file(ONE, replace("observation/pose/left", np.zeros((6, 4))))(own)
    in_file(ONE, replace("observation/joint_pos/left", np.zeros((6, 3))))(own)
    with pytest.raises(ParameterError, match=r"pose/left has 4 columns, in episode_0.hdf5 3"):
        build(own)


@pytest.mark.parametrize("first", [False, True])
def test_pictures_of_floats_have_one_scale(tmp_path, first):
    key = "observation/images/head"
    write(tmp_path, stored="pixels")
    expected = build(tmp_path)["dataset"].__getitems__(range(27))["observation.images.head"]
    for name in LENGTHS:
        with h5py.File(tmp_path / "data" / name, "r+") as file:
            pixels = (file[key][:] / 255).astype(np.float32)
            pixels[0, 0, 0, 0] = 1.0005 if name == ONE else pixels[0, 0, 0, 0]
            replace(key, np.moveaxis(pixels, -1, 1) if first else pixels)(file)
    found = build(tmp_path)["dataset"].__getitems__(range(27))["observation.images.head"]
    other = (found != expected).nonzero().tolist()
    assert other == [[9, 0, 0, 0]]  # the one that is too bright
    with h5py.File(tmp_path / "data" / ONE, "r+") as file:
        replace(key, np.full((6, HEIGHT, WIDTH, 3), 90.0))(file)
    with pytest.raises(ParameterError, match=r"from 0 to 1, those of .*episode_1.hdf5: .* from 0 to 255"):
        build(tmp_path)
