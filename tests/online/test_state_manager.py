"""Versions of the weights: they rise, each reader gets each newest one once, the last survives a restart."""

from __future__ import annotations

import json

import numpy as np
import pytest

from trainer.online.state_manager import PolicyStateManager, unpack_files
from trainer.utils.errors import UsageError


def weights(value, size=3):
    return {"encoder": {"weight": np.full(size, value, np.float32)}}


def value_of(state):
    return float(state["weights"]["encoder"]["weight"][0])


@pytest.fixture
def manager(tmp_path):
    manager = PolicyStateManager(tmp_path)
    yield manager
    manager.close()


def test_each_reader_gets_each_newest_version_once(manager):
    assert manager.get_state("a") is None
    assert manager.version() == 0
    assert manager.update_weights(weights(1), step=10) == 1
    first = manager.get_state("a")
    assert (first["version"], first["step"], value_of(first)) == (1, 10, 1.0)
    assert manager.get_state("a") is None
    assert manager.update_state(weights(2)) == 2
    assert manager.update_weights(weights(3)) == 3
    assert [manager.get_state("a")["version"], manager.get_state("b")["version"]] == [3, 3]
    assert manager.get_state("a") is manager.get_state("b") is None
    assert manager.get_state()["version"] == 3  # all that give no name are one reader
    assert manager.get_state() is None
    assert manager.version() == 3


def test_a_reader_that_says_what_it_has_gets_nothing_older(manager):
    manager.update_weights(weights(1))
    assert manager.get_state("a", newer_than=1) is None
    assert manager.get_state("a", newer_than=0)["version"] == 1


def test_started_again_it_serves_the_last_version_and_goes_on_counting(tmp_path):
    manager = PolicyStateManager(tmp_path)
    for value in (1, 2):
        manager.update_weights(weights(value), step=10 * value, description={"models/a.yaml": b"x"})
    assert manager.flush()
    before = manager.get_state("a")
    again = PolicyStateManager(tmp_path)
    after = again.get_state("a")
    assert (after["version"], after["step"], after["time"]) == (2, 20, before["time"])
    assert value_of(after) == 2.0
    assert again.description() == {"models/a.yaml": b"x"}
    assert again.update_weights(weights(3)) == 3
    manager.close()
    again.close()


def test_a_version_that_was_not_yet_on_disk_is_not_counted_twice(tmp_path, monkeypatch):
    manager = PolicyStateManager(tmp_path)
    manager.update_weights(weights(1))
    assert manager.flush()
    monkeypatch.setattr(manager, "_write", lambda state: "the disk is full")
    assert manager.update_weights(weights(2)) == 2
    assert not manager.flush()
    again = PolicyStateManager(tmp_path)  # killed before version 2 was written
    assert again.get_state("a")["version"] == 1
    assert again.version() == 2
    assert again.flush(timeout=5)
    assert again.update_weights(weights(3)) == 3
    again.close()
    manager.close()


def test_a_disk_that_fails_is_told_of_once_and_the_version_is_served(tmp_path, monkeypatch, caplog):
    manager = PolicyStateManager(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainer.online.state_manager.write_state", full)
    manager.update_weights(weights(1))
    assert not manager.flush()
    assert manager.get_state("a")["version"] == 1
    assert manager.stored_state() is None
    monkeypatch.undo()
    manager.update_weights(weights(2))
    assert manager.flush()
    assert len(caplog.records) == 1
    assert "Version 1 of the weights is not on disk" in caplog.text
    assert value_of(manager.stored_state()) == 2.0
    manager.close()


def test_weights_of_another_architecture_are_refused_and_nothing_is_kept(tmp_path, manager):
    manager.update_weights(weights(1))
    for other in (weights(2, size=4), {"decoder": weights(2)["encoder"]}):
        with pytest.raises(UsageError, match="other names, shapes or types than version 1") as refused:
            manager.update_weights(other)
        assert "\n" not in str(refused.value)
    with pytest.raises(UsageError, match="other names, shapes or types than version 1"):
        manager.update_weights([weights(2)], architecture="something else")
    with pytest.raises(UsageError, match="send tensors or arrays"):
        manager.update_weights({"encoder": {"weight": 3}})
    assert manager.version() == 1
    assert value_of(manager.get_state("a")) == 1.0
    assert manager.flush()
    again = PolicyStateManager(tmp_path)
    with pytest.raises(UsageError, match="other names, shapes or types than version 1"):
        again.update_weights(weights(2, size=4))
    again.close()


def test_references_pass_and_are_not_looked_into(tmp_path):
    store = {"one": weights(1), "two": weights(2)}
    asked = []

    def get(reference):
        asked.append(reference)
        return store[reference]

    manager = PolicyStateManager(tmp_path, get=get, put=lambda value: ["put", value])
    manager.update_weights(["one"], architecture="a")
    assert manager.get_state("a")["weights"] == ["one"]
    assert manager.flush()
    assert asked == ["one"]  # by the writer, beside the calls
    assert value_of(manager.stored_state()) == 1.0
    store["three"] = weights(3, size=5)
    manager.update_weights(["two"], architecture="a")
    with pytest.raises(UsageError, match="other names"):
        manager.update_weights(["three"])  # without a hash it has to be looked at
    manager.close()
    again = PolicyStateManager(tmp_path, get=get, put=lambda value: ["put", value])
    kind, served = again.get_state("a")["weights"]
    assert kind == "put"
    np.testing.assert_array_equal(served["encoder"]["weight"], weights(2)["encoder"]["weight"])
    again.close()


def test_a_damaged_version_is_left_and_the_count_goes_on(tmp_path, caplog):
    manager = PolicyStateManager(tmp_path)
    manager.update_weights(weights(1))
    manager.close()
    (tmp_path / "weights" / "latest.pt").write_bytes(b"no weights")
    again = PolicyStateManager(tmp_path)
    assert again.get_state("a") is None
    assert again.update_weights(weights(2)) == 2
    again.close()
    note = tmp_path / "weights" / "version.json"
    assert json.loads(note.read_text())["version"] == 2
    note.write_text("{")
    with pytest.raises(UsageError, match=r"version\.json is damaged"):
        PolicyStateManager(tmp_path)


def test_files_of_a_description_stay_in_their_folder(tmp_path):
    for name in ("../outside", "/tmp/outside"):
        with pytest.raises(UsageError, match="which is no file of a checkpoint"):
            unpack_files({name: b""}, tmp_path)
