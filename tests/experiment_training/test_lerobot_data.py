from __future__ import annotations

import json
import logging
import sys
import types

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from experiment_training.components.dataloader.lerobot_data import LerobotDatasetFactory, LerobotDatasetParams
from trainer.config.errors import ParameterError
from trainer.data.lerobot import LeRobotWriter
from trainer.registry import DATASET_BUILDER_REGISTRY

LENGTHS = (12, 8, 15)


def write(root, fps=10):
    features = {
        "observation.state": {"dtype": "float32", "shape": [3], "names": None},
        "observation.wrench": {"dtype": "float32", "shape": [6], "names": None},
        "action": {"dtype": "float32", "shape": [2], "names": None},
        "next.reward": {"dtype": "float32", "shape": [1], "names": None},
    }
    rng = np.random.default_rng(0)
    with LeRobotWriter(root, fps=fps, features=features) as writer:
        for length in LENGTHS:
            columns = {
                name: rng.normal(size=(length, *entry["shape"])).astype(np.float32)
                for name, entry in features.items()
            }
            writer.add_episode(columns, "reach")
    return root


@pytest.fixture
def root(tmp_path):
    return write(tmp_path / "sets" / "reach")


def build(root=None, search_paths=None, **params):
    if root is not None:
        params["root"] = str(root)
    options = {"local_rank": 0, "dist_enabled": False, "save_dir": None}
    if search_paths is not None:
        options["search_paths"] = search_paths
    return DATASET_BUILDER_REGISTRY.get("lerobot_dataset_factory")().build(options, params=params)


def offsets(built):
    return {window.key: window.offsets for window in built["dataset"].windows}


def test_defaults(root):
    built = build(root)
    assert offsets(built) == {"observation.state": (0,), "observation.wrench": (0,), "action": (0,)}
    assert len(built["dataset"]) == 35
    assert set(built["norm_stats"]) == {"observation.state", "observation.wrench", "action"}
    column = pq.read_table(root / "data/chunk-000/file-000.parquet").column("action").to_pylist()
    np.testing.assert_allclose(built["norm_stats"]["action"]["mean"], np.mean(column, axis=0), rtol=1e-6)
    assert LerobotDatasetFactory.parameters is LerobotDatasetParams


def test_horizon_history_rate_and_order(root):
    built = build(root, HZ=5, action_horizon=3, action_offset=1, obs_proprio_history=3, task_name="reach")
    assert offsets(built)["observation.state"] == (-4, -2, 0)
    assert offsets(built)["action"] == (2, 4, 6)
    built = build(root, obs_proprio_history=3, history_order="newest_first", features=["observation.wrench"])
    assert offsets(built) == {"observation.wrench": (0, -1, -2), "action": (0,)}
    batch = built["dataset"].__getitems__([5])
    torch.testing.assert_close(
        batch["observation.wrench"][0, 2], built["dataset"][3]["observation.wrench"][0]
    )


def test_any_feature_can_be_predicted(root):
    built = build(root, action_key="observation.wrench", action_horizon=4)
    assert offsets(built) == {"observation.state": (0,), "observation.wrench": (0, 1, 2, 3)}


@pytest.mark.parametrize(
    ("episodes", "expected"),
    [
        ([2, 0], {0, 2}),
        (["0:2"], {0, 1}),
        ("1:3", {1, 2}),
        ([0, "2:3"], {0, 2}),
        (None, {0, 1, 2}),
        ("train", {0, 1, 2}),
    ],
)
def test_episodes(root, episodes, expected):
    built = build(root, episodes=episodes)
    assert (
        set(built["dataset"].__getitems__(range(len(built["dataset"])))["episode_index"].tolist()) == expected
    )
    assert built["norm_stats"]["action"]["count"] == [sum(LENGTHS[i] for i in expected)]


def test_where_a_dataset_is_looked_for(root, tmp_path, monkeypatch):
    def found(**arguments):
        return build(**arguments)["dataset"].reader.root

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("HF_LEROBOT_HOME", raising=False)
    assert found(root="~/sets/reach") == root
    assert found(root="sets/reach", search_paths=[tmp_path / "elsewhere", tmp_path]) == root
    assert found(root="sets", repo_id="reach", search_paths=[tmp_path]) == root
    assert found(repo_id=str(root)) == root
    assert found(repo_id="sets/reach", search_paths=[tmp_path], local_files_only=True) == root
    monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path))
    assert found(repo_id="sets/reach", search_paths=["/"], local_files_only=True) == root
    assert build(repo_id="sets/reach", search_paths=["/"])["dataset"].facts()["repo_id"] == "sets/reach"
    monkeypatch.chdir(tmp_path)
    assert found(root="sets/reach") == root


class HubStandIn:
    """Plays huggingface_hub: has the datasets of a folder, some of them tagged."""

    def __init__(self, monkeypatch, folder, revisions=("v3.0", None)):
        class RevisionNotFoundError(Exception):
            pass

        self.asked = []

        def snapshot_download(repo_id, *, repo_type, revision, allow_patterns):
            self.asked.append((repo_id, repo_type, revision, allow_patterns))
            if not (folder / repo_id).is_dir():
                raise OSError(f"404 Client Error: no dataset {repo_id}\nRequest ID: 1")
            if revision not in revisions:
                raise RevisionNotFoundError
            return str(folder / repo_id)

        hub = types.ModuleType("huggingface_hub")
        errors = types.ModuleType("huggingface_hub.errors")
        hub.snapshot_download = snapshot_download
        errors.RevisionNotFoundError = RevisionNotFoundError
        monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
        monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
        monkeypatch.setenv("HF_LEROBOT_HOME", "/nowhere")


@pytest.mark.parametrize("revisions", [("v3.0", None), (None,)])
def test_what_is_not_on_disk_is_fetched(root, tmp_path, monkeypatch, revisions):
    hub = HubStandIn(monkeypatch, tmp_path, revisions)
    (tmp_path / "empty").mkdir()
    built = build(root=".", repo_id="sets/reach", search_paths=[tmp_path / "empty"])
    assert len(built["dataset"]) == 35
    wanted = ["v3.0"] if "v3.0" in revisions else ["v3.0", None]
    assert hub.asked == [
        ("sets/reach", "dataset", revision, ["meta/*", "data/*", "videos/*"]) for revision in wanted
    ]


@pytest.mark.parametrize("local_files_only", [False, True])
def test_a_root_that_is_not_there_is_not_replaced(root, tmp_path, monkeypatch, local_files_only):
    hub = HubStandIn(monkeypatch, tmp_path)
    monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path))
    where = {"repo_id": "sets/reach", "local_files_only": local_files_only}
    error = refusal(root="gone", search_paths=[tmp_path / "elsewhere"], **where)
    assert (error.param, hub.asked) == ("root", [])
    assert "at gone" in error.message
    assert "without root, 'sets/reach' is looked up in the cache and on the hub" in error.hint
    error = refusal(root=str(tmp_path / "gone"), search_paths=[tmp_path], **where)
    assert (error.param, hub.asked) == ("root", [])


def test_paths_that_no_file_system_knows(root, tmp_path, monkeypatch):
    HubStandIn(monkeypatch, tmp_path)
    nobody = "~nobody-at-all/x"
    assert refusal(root=nobody, search_paths=[tmp_path]).param == "root"
    assert refusal(repo_id=nobody, search_paths=[tmp_path]).param == "repo_id"
    long = "a/" * 2000
    assert refusal(root=long, repo_id="b/" * 200, search_paths=[tmp_path]).param == "root"
    error = refusal(root=root, frame_cache=nobody)
    assert (error.param, "no camera is used" in error.message) == ("frame_cache", True)


def test_a_dataset_that_is_taken_in_place_of_root_is_said(root, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path))
    said = []
    logger, handler = logging.getLogger("trainer"), logging.Handler()
    monkeypatch.setattr(handler, "emit", said.append)
    monkeypatch.setattr(logger, "handlers", [handler])
    caplog.set_level(logging.INFO, "trainer")
    empty = tmp_path / "empty"
    empty.mkdir()
    build(repo_id="sets/reach", search_paths=[empty])
    build(root=".", repo_id="sets/reach", search_paths=[empty])
    assert [(one.levelname, one.getMessage()) for one in said] == [
        ("INFO", f"The dataset 'sets/reach' is read from {root}."),
        ("WARNING", f"there is no dataset 'sets/reach' in root: .; it is read from {root}."),
    ]
    error = refusal(root=".", repo_id="sets/reach", search_paths=[empty], local_files_only=True)
    assert error.param == "root"


def refusal(*args, **kwargs):
    with pytest.raises(ParameterError) as caught:
        build(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return caught.value


def test_fetching_that_is_not_possible(tmp_path, monkeypatch):
    hub = HubStandIn(monkeypatch, tmp_path)
    error = refusal(repo_id="no/such", search_paths=[tmp_path])
    assert error.param == "repo_id"
    assert "'no/such' is not on disk and cannot be fetched from the hub: 404 Client Error" in error.message
    asked = len(hub.asked)
    error = refusal(repo_id="no/such", search_paths=[tmp_path], local_files_only=True)
    assert (error.param, len(hub.asked)) == ("repo_id", asked)
    assert str(tmp_path / "no/such") in error.hint
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    error = refusal(repo_id="no/such", search_paths=[tmp_path])
    assert "needs huggingface_hub, which is not installed" in error.message
    assert "trainer-il[hub]" in error.hint


def test_a_missing_dataset(tmp_path):
    error = refusal(root="none", search_paths=[tmp_path / "a", tmp_path / "b"])
    assert error.param == "root"
    assert "there is no dataset (a folder with meta/info.json) at none" in error.message
    assert f"looked in {tmp_path / 'a' / 'none'}, {tmp_path / 'b' / 'none'}" in error.hint


@pytest.mark.parametrize(
    ("params", "param", "text"),
    [
        ({"action_horizn": 3}, "action_horizn", "unknown key; did you mean 'action_horizon'"),
        ({"zzz": 3}, "zzz", "known here: repo_id, root"),
        ({"action_horizon": 0}, "action_horizon", "should be greater than 0, not 0"),
        (
            {"action_horizon": 2.5},
            "action_horizon",
            "valid integer, got a number with a fractional part, not 2.5",
        ),
        ({"action_horizon": 16}, "action_horizon", "16 frames of 'action' is longer than every episode"),
        ({"action_horizon": 9, "HZ": 5}, "action_horizon", "17 frames"),
        ({"obs_proprio_history": 16}, "obs_proprio_history", "16 frames of 'observation.state' is longer"),
        ({"obs_images_history": 2}, "obs_images_history", "no camera is used, so 2 has no effect"),
        ({"action_offset": "one"}, "action_offset", "valid integer"),
        ({"HZ": 20}, "HZ", "20 Hz does not fall on the frames of a recording at 10 frames/s"),
        ({"HZ": -1}, "HZ", "should be greater than 0, not -1"),
        (
            {"history_order": "newest"},
            "history_order",
            "should be 'oldest_first' or 'newest_first', not 'newest'",
        ),
        ({"features": ["observation.stat"]}, "features", "did you mean 'observation.state'"),
        (
            {"features": ["zzz"]},
            "features",
            "it has observation.state, observation.wrench, action, next.reward",
        ),
        ({"features": "observation.state"}, "features", "valid list, not 'observation.state'"),
        ({"features": ["action"]}, "features", "'action' is in every sample already"),
        ({"features": ["observation.state"] * 2}, "features", "named more than once"),
        ({"features": []}, "features", "there is no observation to use"),
        ({"action_key": "actions"}, "action_key", "did you mean 'action'"),
        ({"action_key": "index"}, "action_key", "no column 'index'"),
        ({"episodes": [3]}, "episodes", "there is no episode 3; they are 0 to 2"),
        ({"episodes": ["0:2", 1]}, "episodes", "episode 1 is chosen more than once"),
        ({"episodes": ["2:2"]}, "episodes", "the range '2:2' is empty"),
        ({"episodes": [0.5]}, "episodes.0", "not 0.5"),
        ({"episodes": []}, "episodes", "no episode is chosen"),
        ({"episodes": "tarin"}, "episodes", "did you mean 'train'? its splits are train"),
        ({"local_files_only": "never"}, "local_files_only", "valid boolean"),
        ({"task_name": 3}, "task_name", "valid string, not 3"),
    ],
)
def test_parameters_that_cannot_be_used(root, params, param, text):
    error = refusal(root, **params)
    assert error.param == param
    assert text in str(error)


def test_neither_root_nor_repo_id():
    assert refusal().param == "repo_id"


def test_a_camera_whose_videos_are_missing(root):
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    info["features"]["observation.images.top"] = {"dtype": "video", "shape": [4, 4, 3], "names": None}
    path.write_text(json.dumps(info))
    assert "observation.images.top" not in offsets(build(root, features=["observation.state"]))
    error = refusal(root)
    assert error.param == "root"
    assert "the video of 'observation.images.top' of episode 0" in error.message


def test_faults_in_the_files_are_shown_at_what_led_to_them(root):
    data = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(data)
    values = table.column("action").to_pylist()
    values[14][0] = float("nan")
    place = table.column_names.index("action")
    column = pa.array(values, table.column("action").type)
    pq.write_table(table.set_column(place, "action", column), data)
    error = refusal(root)
    assert error.param == "root"
    assert "file-000.parquet: 'action' has NaN in frame 2 of episode 1" in error.message
    assert refusal(repo_id=str(root)).param == "repo_id"
    data.write_bytes(data.read_bytes()[:-40])
    assert "truncated or damaged" in refusal(root).message


FILMS = {
    "observation.state": {"dtype": "float32", "shape": [3], "names": None},
    "observation.images.top": {"dtype": "video", "shape": [32, 48, 3], "names": None},
    "observation.images.wrist": {"dtype": "video", "shape": [24, 16, 3], "names": None},
    "action": {"dtype": "float32", "shape": [2], "names": None},
}


@pytest.fixture
def filmed(tmp_path):
    rng = np.random.default_rng(0)
    with LeRobotWriter(tmp_path / "filmed", fps=10, features=FILMS) as writer:
        for length in LENGTHS:
            columns = {
                name: rng.integers(0, 256, (length, *entry["shape"]), np.uint8)
                if entry["dtype"] == "video"
                else rng.normal(size=(length, *entry["shape"])).astype(np.float32)
                for name, entry in FILMS.items()
            }
            writer.add_episode(columns, "reach")
    return tmp_path / "filmed"


def test_cameras_are_observations(filmed):
    built = build(filmed, obs_images_history=2, HZ=5, obs_proprio_history=3, action_horizon=2)
    assert offsets(built) == {
        "observation.state": (-4, -2, 0),
        "observation.images.top": (-2, 0),
        "observation.images.wrist": (-2, 0),
        "action": (0, 2),
    }
    batch = built["dataset"].__getitems__([3, 8])
    assert batch["observation.images.top"].shape == (2, 2, 3, 32, 48)
    assert set(built["norm_stats"]) == {"observation.state", "action"}
    built = build(filmed, features=["observation.images.wrist"])
    assert built["dataset"].image_keys == ("observation.images.wrist",)
    batch = built["dataset"].__getitems__([3, 8])
    assert batch["observation.images.wrist"].shape == (2, 3, 24, 16)
    assert "observation.images.top" not in batch
    newest_first = build(filmed, obs_images_history=2, history_order="newest_first")
    assert offsets(newest_first)["observation.images.top"] == (0, -1)


def test_frames_are_kept_where_a_folder_is_named(filmed, tmp_path):
    plain = build(filmed)["dataset"].__getitems__(range(35))
    kept = build(filmed, frame_cache="kept", search_paths=[filmed, tmp_path])["dataset"].__getitems__(
        range(35)
    )
    assert len(list((tmp_path / "kept").glob("*.npy"))) == 2  # below the project, which is looked at last
    for name in ("observation.images.top", "observation.images.wrist"):
        assert torch.equal(plain[name], kept[name])


def test_what_cannot_be_asked_of_cameras(filmed, root):
    assert refusal(filmed, obs_images_history=16).param == "obs_images_history"
    assert refusal(filmed, action_key="observation.images.top").param == "action_key"
    error = refusal(root, frame_cache="kept")
    assert (error.param, error.message) == (
        "frame_cache",
        "no camera is used, so there are no frames to keep",
    )
    error = refusal(filmed, features=["observation.images.tp"])
    assert "did you mean 'observation.images.top'" in error.hint


def written(root, episode, features):
    with LeRobotWriter(root, fps=10, features=features) as writer:
        writer.add_episode(episode, task="one")
    return root


def test_the_predicted_feature_is_called_action(tmp_path):
    features = {
        "state": {"dtype": "float32", "shape": [3], "names": None},
        "actions": {"dtype": "float32", "shape": [2], "names": None},
        "action": {"dtype": "float32", "shape": [4], "names": None},
    }
    rng = np.random.default_rng(0)
    episode = {k: rng.normal(size=(9, *one["shape"])).astype(np.float32) for k, one in features.items()}
    root = written(tmp_path / "set", episode, features)
    params = {"root": str(root), "features": ["state"], "action_key": "actions", "action_horizon": 2}
    built = LerobotDatasetFactory().build({}, params)
    batch = built["dataset"].__getitems__([3])
    np.testing.assert_array_equal(batch["action"][0], episode["actions"][3:5])
    assert batch["action_is_pad"].tolist() == [[False, False]]
    assert "actions" not in batch
    np.testing.assert_array_equal(built["norm_stats"]["action"]["max"], episode["actions"].max(axis=0))
    facts = built["dataset"].facts()
    assert facts["features"]["action"]["shape"] == [2]
    assert set(facts["windows"]) == {"state", "action"}
    with pytest.raises(ParameterError, match="'action' cannot be observed: in a batch 'actions'"):
        LerobotDatasetFactory().build({}, params | {"features": ["state", "action"]})


@pytest.mark.parametrize("name", ["observation.state_is_pad", "action_is_pad", "observation.proprio_state"])
def test_a_column_with_the_name_of_something_else_in_a_sample(tmp_path, name):
    features = {
        "observation.state": {"dtype": "float32", "shape": [3], "names": None},
        "action": {"dtype": "float32", "shape": [2], "names": None},
        name: {"dtype": "float32", "shape": [1], "names": None},
    }
    episode = {k: np.zeros((9, *one["shape"]), np.float32) for k, one in features.items()}
    root = written(tmp_path / "set", episode, features)
    observed = ["observation.state", name]
    with pytest.raises(ParameterError, match=f"the column '{name}' has the name of the .* in a sample"):
        LerobotDatasetFactory().build({}, {"root": str(root), "features": observed})
    LerobotDatasetFactory().build({}, {"root": str(root), "features": observed[:1]})
