from __future__ import annotations

import os
import pickle
from pathlib import Path

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
            "it holds 'O8', which is no type of numbers",
        ),
    ],
)
def test_anything_else_is_refused(tmp_path, content, text):
    (tmp_path / "s.pkl").write_bytes(content)
    with pytest.raises(DatasetError, match=text):
        load_stats(tmp_path / "s.pkl")


class Asking:
    """Reduces to a call that numpy itself would follow."""

    def __init__(self, function, arguments):
        self.asked = function, arguments

    def __reduce__(self):
        return self.asked


GREEDY = {
    "an empty array": pickle.dumps({"a": {"m": Asking(np.ndarray, ((8_000_000_000,), "f8"))}}),
    "to be filled": pickle.dumps(
        {"a": {"m": Asking(np._core.multiarray._reconstruct, (np.ndarray, (8_000_000_000,), b"d"))}}
    ),
    "a long number": pickle.dumps({"a": {"m": Asking(np.dtype, ("V2000000000",))}}),
    "a memo": b"\x80\x02]r\xff\xff\xff\xfe.",
    "bytes": b"\x80\x04\x8e" + (64 << 30).to_bytes(8, "little") + b"x.",
    "a byte array": b"\x80\x05\x96" + (64 << 30).to_bytes(8, "little") + b"x.",
}


@pytest.mark.parametrize("name", GREEDY)
def test_a_few_bytes_do_not_ask_for_gigabytes(tmp_path, name):
    import resource

    (tmp_path / "s.pkl").write_bytes(GREEDY[name])
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + (1 << 30), limits[1]))
    try:
        with pytest.raises(DatasetError) as raised:
            load_stats(tmp_path / "s.pkl")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert "Unable to allocate" not in str(raised.value)
    assert not isinstance(raised.value.__context__, MemoryError)


def test_a_missing_file(tmp_path):
    with pytest.raises(DatasetError, match=r"s.pkl: there is no such statistics file"):
        load_stats(tmp_path / "s.pkl")
