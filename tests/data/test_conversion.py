"""Small real files of each foreign format, converted, read again, and held against what went in."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from trainer.cli import main
from trainer.commands.data import _FORMATS
from trainer.data.conversion import FORMATS, convert
from trainer.data.conversion.convert import detect
from trainer.data.errors import DatasetError
from trainer.data.inspection import inspect_dataset
from trainer.data.lerobot import LeRobotReader
from trainer.data.lerobot.cameras import open_camera

LENGTHS = (7, 4, 9)
SIZE = (24, 32)


def colours(length, seed):
    """Plain frames, whose colour a film keeps."""
    values = np.random.default_rng(seed).integers(40, 200, (length, 1, 1, 3))
    return np.broadcast_to(values, (length, *SIZE, 3)).astype(np.uint8)


def numbers(length, width, seed):
    return np.random.default_rng(seed).normal(size=(length, width))


def write_zarr(path, scale=1.0, dtype=np.float32, zipped=False):
    zarr = pytest.importorskip("zarr")
    storage = getattr(zarr, "storage", zarr)
    store = storage.ZipStore(str(path), mode="w") if zipped else str(path)
    options = {"zarr_format": 2} if int(zarr.__version__.split(".")[0]) >= 3 else {}
    root = zarr.open_group(store, mode="w", **options)
    total = sum(LENGTHS)
    content = {
        "data/action": numbers(total, 2, 0).astype(np.float32),
        "data/state": numbers(total, 5, 1).astype(np.float64),
        "data/keypoint": numbers(total, 18, 2).reshape(total, 9, 2).astype(np.float32),
        "data/n_contacts": np.arange(total, dtype=np.int64)[:, None],
        "data/img": (colours(total, 3) * scale).astype(dtype),
        "meta/episode_ends": np.cumsum(LENGTHS),
    }
    for name, values in content.items():
        array = root.create_array if hasattr(root, "create_array") else root.create_dataset
        made = array(name, shape=values.shape, dtype=values.dtype, chunks=(5, *values.shape[1:]))
        made[:] = values
    if zipped:
        store.close()
    return content


def write_robomimic(path, rate=20):
    h5py = pytest.importorskip("h5py")
    content = []
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        arguments = {"robots": "Panda"} | ({"control_freq": rate} if rate else {})
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "env_kwargs": arguments})
        for i in (0, 1, 10, 2):  # as text, 10 comes before 2
            length = 5 + i
            demo = {
                "actions": numbers(length, 7, i),
                "obs/robot0_eef_pos": numbers(length, 3, i + 20),
                "obs/robot0_gripper_qpos": numbers(length, 2, i + 40),
                "obs/object": numbers(length, 10, i + 60),
                "obs/agentview_image": colours(length, i),
                "rewards": np.arange(length, dtype=float),
                "dones": (np.arange(length) == length - 1).astype(int),
                "states": numbers(length, 32, i),
            }
            for name, values in demo.items():
                data[f"demo_{i}/{name}"] = values
            content.append((i, demo))
    return [demo for _, demo in sorted(content, key=lambda item: item[0])]


def write_aloha(folder, compressed=False, simulated=True):
    h5py = pytest.importorskip("h5py")
    folder.mkdir()
    content = []
    for i, length in enumerate(LENGTHS):
        episode = {
            "action": numbers(length, 14, i).astype(np.float32),
            "observations/qpos": numbers(length, 14, i + 10).astype(np.float32),
            "observations/qvel": numbers(length, 14, i + 20),
            "observations/images/cam_high": colours(length, i),
        }
        with h5py.File(folder / f"episode_{i}.hdf5", "w") as file:
            file.attrs["sim"] = simulated
            for name, values in episode.items():
                if "images" in name and compressed:
                    encoded = [jpeg(frame) for frame in values]
                    values = np.zeros((length, max(map(len, encoded)) + 9), np.uint8)
                    for row, code in zip(values, encoded, strict=True):
                        row[: len(code)] = np.frombuffer(code, np.uint8)
                file[name] = values
        content.append(episode)
    return content


def jpeg(frame):
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format="JPEG", quality=95)
    return buffer.getvalue()


def check_numbers(root, expected):
    """Hold the columns of a dataset against feature → list of episodes."""
    reader = LeRobotReader(root)
    columns = reader.columns(list(expected))
    for name, episodes in expected.items():
        wanted = np.concatenate([np.asarray(e).reshape(len(e), -1) for e in episodes])
        got = columns[name].reshape(len(wanted), -1)
        np.testing.assert_array_equal(got, wanted.astype(got.dtype), err_msg=name)
    return reader


def check_camera(reader, name, episodes):
    camera = open_camera(reader, name, np.arange(len(reader.episodes)))
    wanted = np.concatenate(episodes)
    got = camera.read(np.arange(len(wanted))).transpose(0, 2, 3, 1)
    assert got.shape == wanted.shape
    assert np.abs(got.astype(int) - wanted).max() <= 12  # colours in a film are coarse


def split(values):
    return np.split(values, np.cumsum(LENGTHS)[:-1])


@pytest.mark.parametrize(
    ("scale", "dtype"), [(1.0, np.float32), (1.0, np.uint8), (1 / 255, np.float32)], ids=str
)
def test_diffusion_policy(tmp_path, scale, dtype):
    content = write_zarr(tmp_path / "pusht.zarr", scale, dtype)
    assert detect(tmp_path / "pusht.zarr") == "diffusion_policy_zarr"
    made = convert(tmp_path / "pusht.zarr", tmp_path / "out", fps=10)
    assert (made.episodes, made.frames, made.fps) == (3, 20, 10)
    names = {"state": "observation.state", "keypoint": "observation.keypoint", "action": "action"}
    names["n_contacts"] = "observation.n_contacts"
    expected = {new: split(content[f"data/{old}"]) for old, new in names.items()}
    reader = check_numbers(tmp_path / "out", expected)
    assert reader.episodes.length.tolist() == list(LENGTHS)
    assert reader.tasks == ["pusht"]
    assert reader.features["observation.keypoint"].shape == (9, 2)
    check_camera(reader, "observation.images.img", split(colours(20, 3)))
    assert not inspect_dataset(tmp_path / "out", decode=True).faults


def test_diffusion_policy_in_a_zip(tmp_path):
    content = write_zarr(tmp_path / "pusht.zarr.zip", zipped=True)
    convert(tmp_path / "pusht.zarr.zip", tmp_path / "out", fps=10, cameras=False)
    check_numbers(tmp_path / "out", {"action": split(content["data/action"])})


def test_what_robomimic_keeps_twice_is_left_out_and_named(tmp_path):
    h5py = pytest.importorskip("h5py")
    write_robomimic(tmp_path / "low_dim.hdf5")
    with h5py.File(tmp_path / "low_dim.hdf5", "a") as file:
        for demo in file["data"].values():
            demo.copy("obs", "next_obs")
    made = convert(tmp_path / "low_dim.hdf5", tmp_path / "out")
    assert "next_obs is left out: it is obs, one frame later" in made.notes
    assert not any("next_obs" in name for name in made.features)


def test_robomimic(tmp_path):
    content = write_robomimic(tmp_path / "low_dim.hdf5")
    made = convert(tmp_path / "low_dim.hdf5", tmp_path / "out")
    assert (made.format, made.fps, made.episodes) == ("robomimic_hdf5", 20, 4)
    assert made.notes == ("the simulator's own states are left out",)
    keys = ("obs/robot0_eef_pos", "obs/robot0_gripper_qpos")
    expected = {
        "action": [demo["actions"] for demo in content],
        "observation.state": [np.concatenate([demo[k] for k in keys], axis=1) for demo in content],
        "observation.object": [demo["obs/object"] for demo in content],
        "next.reward": [demo["rewards"] for demo in content],
        "next.done": [demo["dones"] for demo in content],
    }
    reader = check_numbers(tmp_path / "out", expected)
    assert (reader.tasks, reader.info.robot_type) == (["Lift"], "Panda")
    assert reader.facts()["made"] == {"converted_from": "robomimic_hdf5", "source": "low_dim.hdf5"}
    assert reader.features["next.done"].dtype == "bool"
    check_camera(reader, "observation.images.agentview", [demo["obs/agentview_image"] for demo in content])


@pytest.mark.parametrize("compressed", [False, True])
def test_aloha(tmp_path, compressed):
    content = write_aloha(tmp_path / "transfer_cube", compressed)
    made = convert(tmp_path / "transfer_cube", tmp_path / "out", task="Hand over the cube.")
    assert (made.format, made.fps) == ("aloha_hdf5", 50)
    names = {"observations/qpos": "observation.state", "observations/qvel": "observation.velocity"}
    names["action"] = "action"
    reader = check_numbers(tmp_path / "out", {new: [e[old] for e in content] for old, new in names.items()})
    assert (reader.tasks, reader.info.robot_type) == (["Hand over the cube."], "aloha (simulated)")
    check_camera(reader, "observation.images.cam_high", [e["observations/images/cam_high"] for e in content])


def test_the_command(tmp_path):
    write_robomimic(tmp_path / "a.hdf5")
    words = ["data", "convert", str(tmp_path / "a.hdf5"), "--to", str(tmp_path / "out"), "--no-cameras"]
    result = CliRunner().invoke(main, [*words, "--robot-type", "arm", "--fps", "20"])
    assert result.exit_code == 0, result.output
    assert (
        "4 episodes, 33 frames at 20 frames/s from robomimic_hdf5: action, observation.state" in result.output
    )
    assert "cameras left out: observation.images.agentview" in result.output
    reader = LeRobotReader(tmp_path / "out")
    assert reader.info.robot_type == "arm"
    assert not [name for name, feature in reader.features.items() if feature.is_frames]
    assert CliRunner().invoke(main, words).exit_code == 2  # it exists now
    assert tuple(FORMATS) == _FORMATS


def test_mistakes_leave_nothing_behind(tmp_path):
    h5py = pytest.importorskip("h5py")
    out = tmp_path / "out"

    def refused(source, **options):
        with pytest.raises(DatasetError) as caught:
            convert(source, out, **options)
        assert not out.exists()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no such file" in refused(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "none of the formats" in refused(tmp_path / "empty")
    write_robomimic(tmp_path / "norate.hdf5", rate=None)
    assert "give --fps" in refused(tmp_path / "norate.hdf5")
    (tmp_path / "text.hdf5").write_text("no")
    assert "cannot be read as HDF5" in refused(tmp_path / "text.hdf5")
    assert "not a robomimic file" in refused(write_other(h5py, tmp_path), format="robomimic_hdf5")
    write_aloha(tmp_path / "aloha")
    with h5py.File(tmp_path / "aloha/episode_1.hdf5", "r+") as file:
        file["observations/qpos"][2, 3] = np.nan
    assert "episode 1: 'observation.state' has NaN" in refused(tmp_path / "aloha")
    with h5py.File(tmp_path / "aloha/episode_1.hdf5", "r+") as file:
        del file["observations/qpos"]
    assert "episode_1.hdf5: there is no observations/qpos" in refused(tmp_path / "aloha")
    write_zarr(tmp_path / "a.zarr")
    import zarr

    zarr.open_group(str(tmp_path / "a.zarr"), mode="r+")["meta/episode_ends"][:] = [7, 7, 20]
    assert "there are empty episodes" in refused(tmp_path / "a.zarr", fps=10)


def write_other(h5py, folder):
    with h5py.File(folder / "other.hdf5", "w") as file:
        file["data/values"] = np.zeros(3)
        del file["data/values"]
    return folder / "other.hdf5"


@pytest.mark.parametrize(("library", "name"), [("zarr", "a.zarr"), ("h5py", "a.hdf5")])
def test_a_missing_library_is_named(tmp_path, monkeypatch, library, name):
    import sys

    (tmp_path / "a.zarr/meta/episode_ends").mkdir(parents=True)
    (tmp_path / "a.hdf5").write_text("")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(DatasetError, match=rf"needs {library}.*trainer-il\[convert\]"):
        convert(tmp_path / name, tmp_path / "out", fps=10)


def refused(source, tmp_path, **options):
    """Return why a source is refused, in one sentence, and check that nothing is left of it."""
    with pytest.raises(DatasetError) as caught:
        convert(source, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edited(path, change):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def replaced(key, values):
    def change(file):
        del file[key]
        file[key] = values

    return change


@pytest.fixture
def demos(tmp_path):
    write_robomimic(tmp_path / "demos.hdf5")
    return tmp_path / "demos.hdf5"


CAMERA = "obs/agentview_image"
PICTURES = f"data/demo_2/{CAMERA}"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda file: file.__delitem__("data/demo_2/actions"), "demo_2: there is no actions in it"),
        (lambda file: file.__delitem__("data/demo_2/obs"), "demo_2: there is no obs in it"),
        (lambda file: file.__delitem__("data/demo_2/obs/object"), "demo_2: there is no obs/object in it"),
        (
            replaced("data/demo_2/actions", np.zeros((5, 7))),
            "demo_2: the numbers of frames disagree: actions has 5, obs/robot0_eef_pos has 7",
        ),
        (replaced("data/demo_2/rewards", np.zeros(3)), "rewards has 3"),
        (replaced("data/demo_2/rewards", 1.0), "demo_2: rewards is a single value"),
        (
            replaced("data/demo_2/dones", np.full(7, 0.5)),
            "demo_2: dones: stored as float64, 0.5 does",
        ),
        (replaced("data/demo_2/actions", np.zeros((7, 6))), "demo_2: actions has frames of shape [6]"),
        (
            replaced("data/demo_2/obs/robot0_eef_pos", np.zeros((7, 4))),
            "are 6 numbers, in the first",
        ),
        (
            replaced("data/demo_2/actions", np.full((7, 7), 1e300)),
            "actions: stored as float64, 1e+300",
        ),
        (
            replaced("data/demo_2/actions", np.full((7, 7), b"x")),
            "demo_2: actions: |S1 is not made of numbers",
        ),
        (
            replaced(PICTURES, np.zeros((7, 8, 8, 3), np.uint8)),
            "frame 0 of obs/agentview_image is 8 × 8",
        ),
        (replaced(PICTURES, np.full((7, *SIZE, 3), 300, np.uint16)), "values from 300 to 300"),
        (
            replaced(PICTURES, np.full((7, *SIZE, 3), -1.0)),
            "agentview_image: pictures have values",
        ),
    ],
)
def test_what_is_wrong_with_a_demonstration_is_named(demos, tmp_path, change, text):
    message = refused(edited(demos, change), tmp_path)
    assert f"{demos}: demo_2" in message
    assert text in message


@pytest.mark.parametrize("kind", ["robomimic", "zarr"])
def test_floats_that_overshoot_are_no_black_film(tmp_path, demos, kind):
    if kind == "zarr":
        source, size = tmp_path / "a.zarr", sum(LENGTHS)
        write_zarr(source, 1 / 255)
        import zarr

        stored = zarr.open_group(str(source), mode="r+")["data/img"]
        stored[8, 3, 3, 0] = 1.0005
        wanted, name = colours(size, 3), "observation.images.img"
    else:
        source, name = demos, "observation.images.agentview"
        wanted = np.concatenate([colours(5 + i, i) for i in (0, 1, 2, 10)])
        for i in (0, 1, 2, 10):
            pixels = (colours(5 + i, i) / 255).astype(np.float32)
            pixels[1, 2, 2, 1] = 1.0005 if i == 1 else 0.5
            edited(source, replaced(f"data/demo_{i}/{CAMERA}", pixels))
    convert(source, tmp_path / "out", fps=20)
    reader = LeRobotReader(tmp_path / "out")
    got = open_camera(reader, name, np.arange(len(reader.episodes))).read(np.arange(len(wanted)))
    difference = got.mean(axis=(2, 3)) - wanted.mean(axis=(1, 2))
    assert np.abs(difference).max() < 12


def test_pictures_of_two_scales_are_refused(demos, tmp_path):
    pixels = (colours(7, 2) / 255).astype(np.float32)
    edited(demos, replaced(PICTURES, pixels))
    edited(demos, replaced(f"data/demo_0/{CAMERA}", colours(5, 0).astype(np.float32)))
    message = refused(demos, tmp_path)
    assert "demo_2: obs/agentview_image: the pictures are colours from 0 to 1, those of" in message
    # Who leaves the cameras out is not bothered by them.
    assert convert(demos, tmp_path / "out", cameras=False).episodes == 4


def test_groups_masks_and_names_are_taken_over(demos, tmp_path):
    values = np.arange(7 * 16).reshape(7, 4, 4).astype(float)

    def nest(file):
        for i in (0, 1, 2, 10):
            file[f"data/demo_{i}/obs/datagen/pose/franka"] = np.resize(values, (5 + i, 4, 4))
            file[f"data/demo_{i}/obs/datagen/done"] = np.arange(5 + i) > 3
            file[f"data/demo_{i}/obs/version"] = 3
        file["data/demo_2/obs/extra"] = np.zeros(7)
        file["mask/train"] = np.array([b"demo_10", b"demo_0", b"demo_77"])
        file["mask/valid"] = np.array([b"demo_1"])

    made = convert(edited(demos, nest), tmp_path / "out")
    assert made.notes[1:] == (
        "observations that are not numbers for every frame are left out: version",
        "observations that demo_0 does not have are left out: extra",
        "mask names demonstrations that are not in the file: demo_77",
    )
    reader = LeRobotReader(tmp_path / "out")
    pose = reader.columns(["observation.datagen.pose.franka"])["observation.datagen.pose.franka"]
    np.testing.assert_array_equal(pose[5 + 6 : 5 + 6 + 7], values)
    assert reader.features["observation.datagen.done"].dtype == "bool"
    # The demonstrations are 0, 1, 2, 10, in this order.
    assert reader.info.splits == {"train": [0, 3], "valid": [1]}
    names = [f"robot0_eef_pos_{i}" for i in range(3)] + [f"robot0_gripper_qpos_{i}" for i in range(2)]
    assert reader.features["observation.state"].names == names


def test_two_arrays_of_one_name(demos, tmp_path):
    def add(file):
        for i in (0, 1, 2, 10):
            file[f"data/demo_{i}/obs/a.b"] = file[f"data/demo_{i}/obs/a/b"] = np.zeros(5 + i)

    message = refused(edited(demos, add), tmp_path)
    assert "obs/a.b" in message
    assert "obs/a/b" in message
    assert "would become 'observation.a.b'" in message


def test_an_aloha_episode_of_unequal_lengths(tmp_path):
    write_aloha(tmp_path / "aloha")
    path = edited(tmp_path / "aloha/episode_1.hdf5", replaced("action", np.zeros((3, 14))))
    assert f"{path}: the numbers of frames disagree: action has 3" in refused(tmp_path / "aloha", tmp_path)


def test_frames_behind_the_last_episode_are_noted(tmp_path):
    write_zarr(tmp_path / "a.zarr")
    import zarr

    zarr.open_group(str(tmp_path / "a.zarr"), mode="r+")["meta/episode_ends"][:] = [3, 7, 11]
    made = convert(tmp_path / "a.zarr", tmp_path / "out", fps=10, cameras=False)
    assert "9 frames behind the end of the last episode are left out" in made.notes
