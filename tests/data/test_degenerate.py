"""What is odd about a feature is named, what is usual is not."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.inspection_samples import FPS

from trainer.cli import main
from trainer.data.dataset import WindowedDataset
from trainer.data.degenerate import dataset_oddities, dimension_names, oddities
from trainer.data.inspection import inspect_dataset
from trainer.data.lerobot import LeRobotReader, LeRobotWriter
from trainer.data.mixture import MixtureDataset, Part
from trainer.data.split import split_episodes
from trainer.data.statistics import normalization_statistics
from trainer.data.windows import Window

N = 4000
RNG = np.random.default_rng(0)
TIME = np.linspace(0, 20, N)
WALK = np.stack([np.sin(TIME), np.cos(2 * TIME)], axis=1)


def rotations(angle, axis=(0.6, 0.0, 0.8)):
    """Return unit quaternions of turns about an axis, `(N, 4)`, all of one sign where angles stay small."""
    half = np.asarray(angle)[:, None] / 2
    return np.concatenate([np.sin(half) * np.asarray(axis), np.cos(half)], axis=1)


SMALL_TURNS = rotations(0.8 * np.sin(TIME)) @ np.linalg.qr(RNG.normal(size=(4, 4)))[0]  # all four move


def found(values, names=None, feature="observation.state"):
    values = np.asarray(values, np.float32)
    names = dimension_names(names, values.shape[1:])
    return [
        (one.kind, one.message) for one in oddities(feature, names, normalization_statistics(values), values)
    ]


@pytest.mark.parametrize(
    "values",
    [
        RNG.normal(size=(N, 3)),
        RNG.normal(size=(N, 3)) + 1e4,
        RNG.laplace(size=(N, 2)),
        RNG.uniform(size=(20, 6)),
        WALK,
        np.concatenate([WALK, 1e-2 * WALK], axis=1),
        SMALL_TURNS,
        np.eye(4)[RNG.integers(4, size=N)],  # classes are of length 1 too
        (RNG.uniform(size=(N, 1)) < 0.1),
    ],
    ids=["normal", "far away", "laplace", "few", "walk", "units", "one sign", "classes", "switch"],
)
def test_what_is_usual_is_not_remarked(values):
    assert found(values) == []


def test_constants_are_named():
    values = np.concatenate([WALK, np.full((N, 1), 0.1)], axis=1)
    assert found(values, ["x", "y", "z"]) == [
        ("constant", "'observation.state' has 1 dimension of 3 that never changes: z")
    ]
    assert found(np.full((N, 1), 0.1)) == [("constant", "'observation.state' never changes")]


@pytest.mark.parametrize(
    ("third", "why"),
    [
        (np.where(np.arange(N) % 500 == 0, 1.0, 0.25), r"is 0.25 in 98 % of the frames"),
        (
            1 + 1e-6 * np.sin(TIME),
            "varies by 1.9\\d+e\N{MINUS SIGN}6, and its storage tells 1.192e\N{MINUS SIGN}7 apart",
        ),
        (1e-4 * np.sin(TIME), "has 10,000 times less spread than another"),
    ],
    ids=["seldom", "rounding", "noise"],
)
def test_what_hardly_moves_is_named_with_the_reason(third, why):
    values = np.concatenate([WALK, third[:, None]], axis=1)
    [(kind, message)] = found(values, ["x", "y", "gripper"])
    assert kind == "near_constant"
    expected = rf"'observation.state' has 1 dimension of 3 that hardly moves: gripper \({why}\)"
    assert re.fullmatch(expected, message), message


def test_heavy_tails_are_named_with_both_ranges():
    values = RNG.uniform(-1, 1, size=(N, 2))
    values[17, 1] = 900
    [(kind, message)] = found(values, ["x", "force"])
    assert kind == "heavy_tails"
    low, high = np.quantile(values[:, 1].astype(np.float32), [0.01, 0.99])
    assert (
        "has 1 dimension of 2 that has heavy tails: force: 98 % of the numbers of force lie from" in message
    )
    assert f"from \N{MINUS SIGN}{-low:.4f}"[:10] in message
    assert f"to {high:.4f}"[:8] in message
    assert message.endswith("to 900")


def test_a_quaternion_of_both_signs_is_named():
    values = SMALL_TURNS.copy()
    values[1000:1500] *= -1
    [(kind, message)] = found(np.concatenate([WALK, values], axis=1))
    assert kind == "quaternion"
    assert message == (
        "'observation.state' holds a quaternion (2, 3, 4, 5) of both signs, though q and \N{MINUS SIGN}q are "
        "the same rotation: 500 of 4,000 frames have the rarer one, and it changes 2 times from one frame to "
        "the next"
    )


def test_whole_episodes_of_the_other_sign_are_named_however_often_it_changes():
    random = np.where(RNG.uniform(size=(N, 1)) < 0.5, -1, 1)
    assert [kind for kind, _ in found(SMALL_TURNS * random)] == ["quaternion"]


@pytest.mark.parametrize(
    ("names", "feature"),
    [
        ([f"eef_quat_{i}" for i in range(4)], "observation.state"),
        (["pose.qw", "pose.qx", "pose.qy", "pose.qz"], "observation.state"),
        (None, "observation.eef_quat"),
    ],
    ids=["numbered", "letters", "feature"],
)
def test_a_quaternion_by_its_name_must_be_of_length_1(names, feature):
    values = SMALL_TURNS.copy()
    values[:40] *= 1.5
    [(kind, message)] = found(values, names, feature)
    assert kind == "quaternion"
    assert "whose length is not 1 in 40 of 4,000 frames, but 1 to 1.5" in message
    assert found(values) == []  # nobody says that it is one


def test_integers_and_flags_are_odd_only_where_they_are_constant():
    done = np.arange(N) % 500 == 499
    names = [""]
    stats = normalization_statistics(done[:, None])
    assert list(oddities("next.done", names, stats, done[:, None])) == []
    assert [one.kind for one in oddities("phase", names, normalization_statistics(np.ones((9, 1), int)))] == [
        "constant"
    ]


def test_statistics_of_others_serve_as_far_as_they_go():
    assert list(oddities("action", ["a", "b"], {"mean": np.zeros(2), "std": np.ones(2)})) == []
    stats = {"min": np.zeros(2), "max": np.array([0.0, 1.0])}
    assert [one.message for one in oddities("action", ["a", "b"], stats)] == [
        "'action' has 1 dimension of 2 that never changes: a"
    ]


def write(root, turns):
    names = ["x", "y", *(f"quat_{i}" for i in range(4))]
    features = {
        "observation.state": {"dtype": "float32", "shape": [6], "names": names},
        "action": {"dtype": "float32", "shape": [2], "names": None},
    }
    with LeRobotWriter(root, fps=FPS, features=features) as writer:
        for part in np.split(np.arange(N), 8):
            state = np.concatenate([WALK[part], turns[part]], axis=1).astype(np.float32)
            writer.add_episode({"observation.state": state, "action": WALK[part].astype(np.float32)}, "turn")
    return root


@pytest.fixture(scope="module")
def two_signs(tmp_path_factory):
    turns = SMALL_TURNS.copy()
    turns[1000:1500] *= -1
    return write(tmp_path_factory.mktemp("signs") / "set", turns)


def test_an_inspection_and_a_dataset_say_the_same(two_signs):
    remarks = [f.message for f in inspect_dataset(two_signs).findings]
    reader = LeRobotReader(two_signs)
    dataset = WindowedDataset(reader, [Window("observation.state", (0,)), Window("action", (0,))])
    stats = dataset.statistics(["observation.state", "action"])
    assert [one.message for one in dataset_oddities(dataset, stats)] == remarks
    assert len(remarks) == 1
    assert "(quat_0, quat_1, quat_2, quat_3) of both signs" in remarks[0]


def test_a_part_of_a_mixture_is_named_with_its_dataset(two_signs, tmp_path):
    parts = []
    for name, root in (("plain", write(tmp_path / "plain", SMALL_TURNS)), ("signs", two_signs)):
        windows = [Window("observation.state", (0,)), Window("action", (0,))]
        dataset = WindowedDataset(LeRobotReader(root), windows)
        parts.append(Part(name, dataset, 1.0, dataset.statistics(["observation.state", "action"])))
    mixture, _ = split_episodes(MixtureDataset(parts), 0, fraction=0.2)
    [oddity] = dataset_oddities(mixture, mixture.norm_stats())
    assert oddity.message.startswith("'signs/observation.state' holds a quaternion (quat_0, ")


def test_check_remarks_on_it(tiny_experiment, two_signs):
    def change(config):
        config["data"]["datamodule"]["params"]["root"] = str(two_signs)
        config["data"]["datamodule"]["params"]["features"] = ["observation.state"]

    path = tiny_experiment(change)
    encoder = path.parent / "models/observation_encoder.yaml"
    encoder.write_text(encoder.read_text().replace("- 10\n", "- 12\n"))
    result = CliRunner().invoke(main, ["check", str(path), "--no-prove"])
    assert result.exit_code == 0, result.output
    assert "Remark: 'observation.state' holds a quaternion (quat_0, quat_1" in result.output
    result = CliRunner().invoke(main, ["check", str(path), "--no-prove", "--json"])
    [remark] = json.loads(result.stdout)["remarks"]
    assert "500 of 4,000 frames" in remark
