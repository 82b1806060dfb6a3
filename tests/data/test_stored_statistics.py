"""The statistics that came with a dataset are held against its numbers, and never used."""

from __future__ import annotations

import json
import logging

import numpy as np
import pyarrow as pa
import pytest
from helpers.inspection_samples import (
    EPISODES,
    LENGTHS,
    as_v21,
    change_json,
    change_table,
    healthy,
    with_video,
)

from experiment_training.components.dataloader.lerobot_data import LerobotDatasetFactory
from trainer.data.inspection import inspect_dataset
from trainer.data.lerobot import LeRobotReader, LeRobotWriter
from trainer.data.statistics import COMPARED, QUANTILES, column_statistics, statistics_of_episodes
from trainer.utils.log import log


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return healthy(tmp_path_factory.mktemp("sound") / "set")


@pytest.fixture
def said(monkeypatch):
    """What is warned of."""
    found = []

    class Listener(logging.Handler):
        def emit(self, record):
            found.append(record.getMessage())

    monkeypatch.setattr(log, "handlers", [Listener(logging.WARNING)])
    return found


def opened(root, **params):
    built = LerobotDatasetFactory().build({}, {"root": str(root), "action_horizon": 4, **params})
    return built["norm_stats"]


def change_episode_stats(root, name, episode, change):
    def changed(table):
        rows = table.column(name).to_pylist()
        rows[episode] = change(rows[episode])
        place = table.column_names.index(name)
        return table.set_column(place, name, pa.array(rows, table.schema.field(name).type))

    change_table(root / EPISODES, changed)


def two_speeds(root):
    """Write a slow episode and a fast one, whose quantiles have nothing in common."""
    rng = np.random.default_rng(0)
    features = {
        name: {"dtype": "float32", "shape": [1], "names": None} for name in ("observation.state", "action")
    }
    with LeRobotWriter(root, fps=10, features=features) as writer:
        for scale in (1, 100):
            values = (scale * rng.normal(size=(500, 1))).astype(np.float32)
            writer.add_episode({"observation.state": values, "action": values}, "move")
    return root


def test_quantiles_are_those_of_all_numbers_and_no_average_of_episodes(tmp_path):
    root = two_speeds(tmp_path / "set")
    action = LeRobotReader(root).columns(["action"])["action"].astype(np.float64)
    stats = opened(root)["action"]
    halves = [column_statistics(half) for half in np.split(action, 2)]
    for name, level in QUANTILES.items():
        assert stats[name] == pytest.approx(np.quantile(action, level, axis=0), rel=1e-9)
        averaged = (halves[0][name] + halves[1][name]) / 2
        assert name == "q50" or abs(averaged - stats[name]) > 0.05 * abs(stats[name])


def test_averaged_quantiles_are_remarked_on_with_the_share_that_they_are(tmp_path):
    root = two_speeds(tmp_path / "set")
    assert inspect_dataset(root).findings == ()
    action = LeRobotReader(root).columns(["action"])["action"].astype(np.float64)
    halves = [np.quantile(half, 0.01) for half in np.split(action, 2)]
    averaged = float(np.mean(halves))
    change_json(root / "meta/stats.json", lambda stats: stats["action"].update(q01=[averaged]))
    [remark] = inspect_dataset(root).findings
    assert (remark.kind, remark.fault, remark.feature) == ("quantiles", False, "action")
    below = 100 * (action < averaged).mean()
    assert f"q01 is {averaged:.6g}, below which {below:.3g} % of the numbers lie, not 1 %" in remark.message
    assert f"the data says {np.quantile(action, 0.01):.6g}" in remark.message


def test_an_estimate_from_a_histogram_is_no_fault(tmp_path):
    root = two_speeds(tmp_path / "set")
    change_json(
        root / "meta/stats.json",
        lambda stats: stats["action"].update({q: [stats["action"][q][0] + 0.3] for q in QUANTILES}),
    )
    assert inspect_dataset(root).findings == ()


def test_statistics_of_episodes_are_those_of_numpy(sound):
    values = LeRobotReader(sound).columns(["observation.state"])["observation.state"]
    found = statistics_of_episodes(values, np.array(LENGTHS))
    parts = np.split(values.astype(np.float64), np.cumsum(LENGTHS)[:-1])
    for name, function in (("min", np.min), ("max", np.max), ("mean", np.mean), ("std", np.std)):
        np.testing.assert_allclose(found[name], [function(part, axis=0) for part in parts], atol=1e-12)
    assert found["count"].tolist() == [[length] for length in LENGTHS]


def test_what_agrees_is_opened_in_silence(sound, said):
    opened(sound)
    opened(sound, episodes="1:3")
    assert said == []


@pytest.mark.parametrize("statistic", COMPARED)
def test_a_disagreement_is_said_at_opening_and_changes_no_number(tmp_path, said, statistic):
    root = healthy(tmp_path / "set")
    before = opened(root)
    change_json(
        root / "meta/stats.json",
        lambda stats: [stats[k][statistic].__setitem__(0, 12.5) for k in ("action", "observation.state")],
    )
    after = opened(root)
    [sentence] = said
    assert (
        f"meta/stats.json does not belong to this data: of 'observation.state', {statistic} is 12" in sentence
    )
    assert "(and 1 more features); nothing is taken from there" in sentence
    for key, values in before.items():
        for name, value in values.items():
            np.testing.assert_array_equal(after[key][name], value)
    opened(root, episodes="0:2")  # the statistics of all are not those of some
    assert len(said) == 1


@pytest.mark.parametrize("statistic", COMPARED)
def test_statistics_of_an_episode_are_compared_where_it_is_used(tmp_path, said, statistic):
    root = healthy(tmp_path / "set")
    change_episode_stats(root, f"stats/action/{statistic}", 2, lambda row: [7, *row[1:]])
    opened(root, episodes="0:2")
    assert said == []
    opened(root, episodes="1:4")
    [sentence] = said
    assert "the statistics of episodes in meta/ are not those of their data: of 'action', " in sentence
    assert f"{statistic} is 7, the data says " in sentence
    assert "in episode 2; nothing is taken from there" in sentence
    [remark] = inspect_dataset(root).findings
    assert (remark.kind, remark.fault) == ("episode_stats", False)
    assert "in episode 2" in remark.message


def test_sums_of_squares_in_float32_are_no_disagreement(tmp_path):
    rng = np.random.default_rng(0)
    features = {name: {"dtype": "float32", "shape": [1], "names": None} for name in ("action",)}
    with LeRobotWriter(tmp_path / "set", fps=10, features=features) as writer:
        writer.add_episode({"action": (700 + rng.normal(size=(80, 1))).astype(np.float32)}, "move")

    def less_exact(row):
        values = LeRobotReader(tmp_path / "set").columns(["action"])["action"][:, 0]
        assert values.dtype == np.float32
        variance = np.square(values).mean() - np.square(values.mean())
        assert abs(np.sqrt(variance) - row[0]) > 5e-3  # what a thousandth of the range would refuse
        return [float(np.sqrt(variance))]

    change_episode_stats(tmp_path / "set", "stats/action/std", 0, less_exact)
    assert inspect_dataset(tmp_path / "set").findings == ()


def test_damaged_statistics_hinder_no_training(tmp_path, said):
    root = healthy(tmp_path / "set")
    (root / "meta/stats.json").write_text("[1, 2")
    opened(root)
    [sentence] = said
    assert "stats.json: these are not statistics" in sentence
    assert sentence.endswith("statistics are computed from the data.")


def test_version_2_1_has_them_by_episode(tmp_path, said):
    root = with_video(healthy(tmp_path / "set"))
    reader = LeRobotReader(root)
    keys = ["observation.state", "action"]
    exact = {key: statistics_of_episodes(reader.columns([key])[key], np.array(LENGTHS)) for key in keys}
    as_v21(root)
    lines = [
        {"episode_index": e, "stats": {k: {n: v[e].tolist() for n, v in exact[k].items()} for k in keys}}
        for e in range(len(LENGTHS))
    ]
    path = root / "meta/episodes_stats.jsonl"
    path.write_text("\n".join(map(json.dumps, reversed(lines))))
    opened(root, features=["observation.state"])
    assert said == []
    lines[3]["stats"]["action"]["max"][1] += 1
    path.write_text("\n".join(map(json.dumps, lines)))
    opened(root, features=["observation.state"])
    assert "of 'action', max is" in said[0]
    assert "in episode 3" in said[0]
    lines[3]["stats"]["action"]["max"] = [1.0]
    path.write_text("\n".join(map(json.dumps, lines)))
    opened(root, features=["observation.state"])
    assert "episodes_stats.jsonl: line 4: 'max' of 'action' has not 2 numbers" in said[1]
