from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from trainer.data.errors import DatasetError
from trainer.data.statistics import column_statistics
from trainer.data.stats_file import load_stats, save_stats


def stats():
    return {"action": column_statistics(np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32))}


def test_there_and_back(tmp_path):
    save_stats(tmp_path / "run" / "dataset_stats.pkl", stats())
    loaded = load_stats(tmp_path / "run" / "dataset_stats.pkl")
    for name, array in stats()["action"].items():
        assert loaded["action"][name].dtype == array.dtype
        np.testing.assert_array_equal(loaded["action"][name], array)
    assert os.listdir(tmp_path / "run") == ["dataset_stats.pkl"]


def test_plain_pickle_reads_it_too(tmp_path):
    save_stats(tmp_path / "s.pkl", stats())
    with (tmp_path / "s.pkl").open("rb") as file:
        plain = pickle.load(file)
    assert type(plain) is dict
    assert type(plain["action"]["mean"]) is np.ndarray


def test_equal_statistics_give_equal_bytes(tmp_path):
    save_stats(tmp_path / "a.pkl", stats())
    again = {"".join(["act", "ion"]): {"".join(list(name)): v[:] for name, v in stats()["action"].items()}}
    save_stats(tmp_path / "b.pkl", again)
    assert (tmp_path / "a.pkl").read_bytes() == (tmp_path / "b.pkl").read_bytes()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_numbers_and_lists_of_any_pickle_protocol(tmp_path, protocol):
    values = {"action": {"mean": np.array([1.0, 2.0]), "std": [1, 2.5], "count": np.int64(4)}}
    (tmp_path / "s.pkl").write_bytes(pickle.dumps(values, protocol=protocol))
    loaded = load_stats(tmp_path / "s.pkl")
    np.testing.assert_array_equal(loaded["action"]["mean"], [1, 2])
    np.testing.assert_array_equal(loaded["action"]["std"], [1, 2.5])
    assert loaded["action"]["count"] == 4


class Shell:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_code_is_refused_and_not_run(tmp_path):
    proof = tmp_path / "proof"
    (tmp_path / "s.pkl").write_bytes(pickle.dumps({"action": {"mean": Shell(f"touch {proof}")}}))
    with pytest.raises(
        DatasetError, match=r"s.pkl: this is not a file of dataset statistics: it asks for \w+.system"
    ):
        load_stats(tmp_path / "s.pkl")
    assert not proof.exists()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"no pickle", "this is not a file of dataset statistics"),
        (b"", "this is not a file of dataset statistics"),
        (pickle.dumps([1]), "statistics are a dict of features, this is a list"),
        (pickle.dumps({"action": 1}), "feature 'action' has no dict of statistics"),
        (
            pickle.dumps({"action": {"mean": "x"}}),
            "statistic 'mean' of feature 'action' is not made of numbers",
        ),
        (
            pickle.dumps({"a": {"mean": np.array([{}])}}),
            "statistic 'mean' of feature 'a' is not made of numbers",
        ),
    ],
)
def test_anything_else_is_refused(tmp_path, content, text):
    (tmp_path / "s.pkl").write_bytes(content)
    with pytest.raises(DatasetError, match=text):
        load_stats(tmp_path / "s.pkl")


def test_a_missing_file(tmp_path):
    with pytest.raises(DatasetError, match=r"s.pkl: there is no such statistics file"):
        load_stats(tmp_path / "s.pkl")
