"""A measurement reaches the network on a robot as it did in training, whatever kind of column it is."""

from __future__ import annotations

import json
from typing import ClassVar

import numpy as np
import pytest
import torch
import yaml
from helpers.tiny_experiment import encoder_yaml

from experiment_training.components.dataloader.lerobot_data import LerobotDatasetFactory
from trainer.data.batch_path import BatchPath
from trainer.data.columns import columns_of, to_facts
from trainer.data.lerobot import LeRobotWriter
from trainer.data.loader import BatchLoader
from trainer.data.normalization import Normalizer
from trainer.deployment.deployed_policy import DeployedPolicy
from trainer.deployment.robot_policy import load_policy
from trainer.offline_trainer import train

CAMERA = "observation.rgb.head"
FEATURES = {
    "observation.state": {"dtype": "float32", "shape": [3], "names": None},
    "observation.gps": {"dtype": "float64", "shape": [2], "names": None},
    "observation.clock": {"dtype": "float64", "shape": [1], "names": None},
    "observation.mode": {"dtype": "int64", "shape": [2], "names": None},
    "observation.flag": {"dtype": "bool", "shape": [1], "names": None},
    "observation.image_embedding": {"dtype": "float32", "shape": [4], "names": None},
    "observation.grid": {"dtype": "float32", "shape": [2, 3], "names": None},
    "pose": {"dtype": "float32", "shape": [2], "names": None},
    CAMERA: {"dtype": "video", "shape": [64, 48, 3], "names": ["height", "width", "channels"]},
    "actions": {"dtype": "float32", "shape": [2], "names": None},
}
OBSERVED = [name for name in FEATURES if name != "actions"]
FRAMES = 20


def episode(seed):
    rng = np.random.default_rng(seed)
    columns = {
        name: rng.normal(size=(FRAMES, *one["shape"])).astype(one["dtype"])
        for name, one in FEATURES.items()
        if one["dtype"].startswith("float")
    }
    columns["observation.gps"] = columns["observation.gps"] * 0.1 + [500_000, 5_200_000]
    columns["observation.clock"] = 1.7e9 + np.arange(FRAMES)[:, None] / 10
    columns["observation.image_embedding"] = columns["observation.image_embedding"] * 50 + 100
    columns["observation.mode"] = rng.integers(0, 200, (FRAMES, 2))
    columns["observation.flag"] = rng.random((FRAMES, 1)) < 0.5
    smooth = np.kron(rng.integers(0, 256, (FRAMES, 4, 3, 3)), np.ones((16, 16, 1)))
    columns[CAMERA] = smooth.astype(np.uint8)
    return columns


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("kinds") / "set"
    with LeRobotWriter(root, fps=10, features=FEATURES) as writer:
        for seed in range(2):
            writer.add_episode(episode(seed), task="all")
    return root


class Network:
    """Notes what it is given."""

    def predict_action(self, observation, random):
        self.seen = observation
        return torch.zeros(len(next(iter(observation.values()))), 4, 2)


def built(root, **params):
    params = {"action_key": "actions", "features": OBSERVED, "action_horizon": 4, **params}
    return LerobotDatasetFactory().build({}, {"root": str(root), **params})


def deployed(found, normalizer, **more):
    facts = found["dataset"].facts() | {"columns": to_facts(columns_of(found["dataset"]), normalizer.modes)}
    return DeployedPolicy(
        Network(), normalizer, json.loads(json.dumps({**facts, **more})), torch.device("cpu")
    )


def measurement(found, row):
    """Return what a robot would measure in a frame of the recording: pictures as cameras give them."""
    batch = found["dataset"].__getitems__([row])
    raw = {name: batch[name][0].numpy() for name in OBSERVED}
    raw = {n: v if v.ndim == 3 and n == CAMERA else v[-1] for n, v in raw.items()}
    return raw | {CAMERA: raw[CAMERA].transpose(1, 2, 0)}


@pytest.mark.parametrize("history", [1, 3])
@pytest.mark.parametrize(
    "modes",
    [
        "mean_std",
        "min_max",
        "quantile",
        "none",
        {
            "observation.mode": "min_max",
            "observation.flag": "mean_std",
            "observation.image_embedding": "quantile",
        },
    ],
    ids=str,
)
def test_the_network_gets_the_same_numbers(root, modes, history):
    found = built(root, obs_proprio_history=history, obs_images_history=history)
    normalizer = Normalizer(found["norm_stats"], modes)
    loader = BatchLoader(found["dataset"], batch_size=1, path=BatchPath(normalizer, cameras=[CAMERA]))
    policy = deployed(found, normalizer)
    last = 7
    single = built(root)
    for row in range(last - history + 1, last + 1):
        policy.reset() if row == last - history + 1 else None
        policy.n_action_steps = 1
        policy.act(measurement(single, row))
    trained, seen = loader.sample(np.array([last])), policy.policy.seen
    assert set(OBSERVED) <= set(seen)
    for name in seen:
        assert seen[name].dtype == trained[name].dtype, name
        torch.testing.assert_close(seen[name], trained[name], rtol=0, atol=0, msg=name)
    assert seen[CAMERA].max() <= 1


class Watched(dict):
    """An observation that notes at which steps its picture was looked at."""

    looked: ClassVar[list[int]] = []
    step = 0

    def __getitem__(self, name):
        if name == CAMERA:
            self.looked.append(self.step)
        return super().__getitem__(name)


@pytest.mark.parametrize(("history", "looks"), [(1, [0, 3, 6]), (2, [0, 2, 3, 5, 6])])
def test_a_picture_is_looked_at_only_where_a_chunk_reads_it(root, history, looks):
    found = built(root, obs_images_history=history)
    assert found["dataset"].facts()["windows"][CAMERA] == list(range(1 - history, 1))
    policy = deployed(found, Normalizer(found["norm_stats"]))
    single = built(root)
    policy.n_action_steps = 3
    Watched.looked.clear()
    for Watched.step in range(7):
        policy.act(Watched(measurement(single, Watched.step)))
        if Watched.step % policy.n_action_steps == 0:
            shown = policy.policy.seen[CAMERA][0]
            newest = shown if history == 1 else shown[-1]
            expected = measurement(single, Watched.step)[CAMERA].transpose(2, 0, 1) / np.float32(255)
            np.testing.assert_allclose(newest, expected, atol=1e-6)

    assert Watched.looked == looks


def test_a_batch_of_robots_and_floats_for_pictures(root):
    found = built(root)
    policy = deployed(found, Normalizer(found["norm_stats"]))
    rows = [measurement(found, row) for row in (3, 9)]
    policy.reset([0, 1])
    policy.act({name: np.stack([row[name] for row in rows]) for name in OBSERVED})
    together = policy.policy.seen
    policy.keep([1])
    policy._history, policy._step = [], 0
    policy.act({name: rows[1][name][None] for name in OBSERVED} | {CAMERA: rows[1][CAMERA][None] / 255})
    for name, value in policy.policy.seen.items():
        torch.testing.assert_close(value, together[name][1:], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("observation.state", np.zeros(1), r"'observation\.state' has shape \(1,\); the policy needs \(3,\)"),
        ("observation.state", 0.5, r"has shape \(\); the policy needs \(3,\)"),
        (
            "observation.state",
            [0, np.nan, 0],
            r"'observation\.state' has NaN .* float32 numbers of shape \(3,\)",
        ),
        ("observation.state", ["a", "b", "c"], r"'observation\.state' holds <U1; the policy needs float32"),
        ("observation.state", [1e300, 0, 0], "which float32 cannot hold"),
        (
            "observation.state",
            [[0.0], [1.0, 2.0]],
            r"'observation\.state' is no array of numbers \(.*\); the policy needs float32 numbers",
        ),
        (
            "observation.state",
            torch.zeros(3, requires_grad=True),
            "'observation.state' is no array of numbers",
        ),
        (
            "observation.mode",
            [0.5, 1],
            r"'observation\.mode' has float64 numbers from 0\.5 to 1, which int64",
        ),
        (
            "observation.flag",
            [2],
            r"'observation\.flag' has int64 numbers from 2 to 2, which bool cannot hold",
        ),
        (
            CAMERA,
            np.zeros((64, 64, 3), np.uint8),
            r"\(64, 64, 3\); the policy needs \(64, 48, 3\) or \(3, 64, 48\)",
        ),
        (CAMERA, np.full((64, 48, 3), 200.0), "pictures of uint8 from 0 to 255, or of floats from 0 to 1"),
    ],
)
def test_what_the_dataset_cannot_hold_is_refused(root, name, value, text):
    found = built(root)
    policy = deployed(found, Normalizer(found["norm_stats"]))
    with pytest.raises(ValueError, match=text):
        policy.act(measurement(found, 3) | {name: value})


def test_observations_without_names_are_refused(root):
    found = built(root)
    policy = deployed(found, Normalizer(found["norm_stats"]))
    with pytest.raises(ValueError, match=r"observations by name, it was given a ndarray of shape \(3,\)"):
        policy.act(np.zeros(3))


def test_a_policy_says_what_it_needs(root):
    found = built(root)
    modes = {"observation.mode": "min_max"}
    policy = deployed(found, Normalizer(found["norm_stats"], modes), reads=["observation.mode", CAMERA])
    assert list(policy.observations) == ["observation.mode", CAMERA]
    assert policy.observations[CAMERA].shape == (3, 64, 48)
    assert policy.actions.shape == (2,)
    assert policy.fps == 10
    for part in (
        "10 times per second",
        "observation.mode: 2 int64, normalized by min_max",
        f"{CAMERA}: 3 × 64 × 48 uint8 picture",
        "gives action: 2 float32, normalized by mean_std",
    ):
        assert part in str(policy)
    with pytest.raises(
        ValueError, match=r"needs observation\.mode: 2 int64.*; it was given observation\.state"
    ):
        policy.act({"observation.state": np.zeros(3), CAMERA: np.zeros((64, 48, 3), np.uint8)})


def test_what_is_not_read_is_said_and_not_asked_for(tiny_experiment, root, tmp_path, capsys):
    encoder = encoder_yaml()
    graph = encoder["model"]["graph"]
    graph["inputs"], graph["nodes"][0]["args"] = ["pose"], ["$pose"]
    graph["modules"]["embedding"]["dims"][0] = 2

    def change(config):
        config["model"]["component_config_paths"]["observation_encoder"] = "pose.yaml"
        params = config["data"]["datamodule"]["params"]
        params |= {"root": str(root), "features": ["pose", CAMERA], "action_key": "actions"}
        params["obs_proprio_history"] = 1
        config["data"]["batch_size"] = 4

    (tmp_path / "pose.yaml").write_text(yaml.safe_dump(encoder))
    run = train(tiny_experiment(change))
    said = capsys.readouterr().err
    assert f"'{CAMERA}' is loaded, but the policy does not read it in its first pass" in said
    assert "data.datamodule.params.features: [pose]" in said
    policy = load_policy(run, "cpu")
    assert list(policy.observations) == ["pose"]
    assert policy.act({"pose": np.zeros(2)}).shape == (2,)
    kept = json.loads((run / "dataset.json").read_text())
    assert kept["columns"]["pose"]["normalization"] == "mean_std"
    assert kept["columns"][CAMERA]["kind"] == "picture"


def test_facts_of_earlier_versions(tiny_experiment):
    """They tell windows and features, and neither columns nor what is read."""
    run = train(tiny_experiment())
    now = load_policy(run, "cpu")
    facts = json.loads((run / "dataset.json").read_text())
    windows = {name: facts["windows"][name] for name in ("observation.state", "action")}
    for old in ({"windows": windows, "features": facts["features"], "fps": 10}, {"windows": windows}):
        policy = DeployedPolicy(now.policy, now.normalizer, old, torch.device("cpu"))
        assert list(policy.observation_windows) == ["observation.state"]
        seen = {"observation.state": np.arange(5.0)}
        np.testing.assert_array_equal(policy.act(seen), now.act(seen))
        now.reset()
        assert "observation.state" in str(policy)
