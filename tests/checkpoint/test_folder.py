"""Checkpoints exist whole or not at all, and damage is found when they are read."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import damage
from torch import nn

from trainer.checkpoint.folder import (
    CheckpointError,
    Snapshot,
    find_checkpoint,
    load_tensors,
    newest_good_checkpoint,
    read_manifest,
    write_checkpoint,
)
from trainer.checkpoint.names import checkpoint_name
from trainer.checkpoint.writer import CheckpointWriter
from trainer.deployment.policy_parts import load_component


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(
        tmp_path, Snapshot("epoch_1", {"a.pt": {"w": torch.ones(100)}}, facts={"epoch": 1})
    )


def test_what_was_written_is_read_back(checkpoint: Path) -> None:
    assert read_manifest(checkpoint)["epoch"] == 1
    assert torch.equal(load_tensors(checkpoint / "a.pt")["w"], torch.ones(100))
    assert find_checkpoint(checkpoint.parent) == checkpoint
    assert find_checkpoint(checkpoint) == checkpoint


def test_a_second_checkpoint_of_the_same_name_replaces_the_first(checkpoint: Path) -> None:
    write_checkpoint(checkpoint.parent, Snapshot("epoch_1", {"b.pt": {}}))
    assert sorted(p.name for p in checkpoint.iterdir()) == ["b.pt", "manifest.json"]
    assert sorted(p.name for p in checkpoint.parent.iterdir()) == ["epoch_1", "latest"]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("short", r"a\.pt is damaged"),
        ("flipped", r"a\.pt is damaged"),
        ("gone", r"lacks its file a\.pt"),
        ("no manifest", "never completed"),
        ("bad manifest", r"manifest\.json is damaged"),
    ],
)
def test_damage_is_found(checkpoint: Path, kind: str, message: str) -> None:
    damage(checkpoint, kind)
    with pytest.raises(CheckpointError, match=message):
        read_manifest(checkpoint)


ENTRY = {"size": 1, "sha256": "0"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "it lists no files and sizes"),
        ('{"files": ["a.pt"]}', "it lists no files and sizes"),
        ('{"files": {"a.pt": {}}}', "it lists no files and sizes"),
        ('{"files": {"a.pt": {"size": "1", "sha256": "0"}}}', "it lists no files and sizes"),
        ("[" * 100_000, "manifest.json is damaged"),
        (json.dumps({"files": {"../secret": ENTRY}}), "'../secret' is no file of a checkpoint"),
        (json.dumps({"files": {"/etc/passwd": ENTRY}}), "'/etc/passwd' is no file of a checkpoint"),
    ],
)
def test_a_damaged_manifest_is_said_in_a_sentence(checkpoint: Path, text: str, message: str) -> None:
    (checkpoint / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match=re.escape(message)):
        read_manifest(checkpoint)
    assert newest_good_checkpoint(checkpoint.parent) is None


@pytest.mark.parametrize("name", ["../other/epoch_1", "/tmp", "..", "epoch_1/../../other/epoch_1", "models"])
def test_a_pointer_never_leads_out_of_its_run(tmp_path: Path, name: str) -> None:
    for run in ("run", "other"):
        (tmp_path / run).mkdir()
        write_checkpoint(tmp_path / run, Snapshot("epoch_1", {"a.pt": {}}))
    (tmp_path / "run/latest").write_text(f"{name}\n")
    for path in (tmp_path / "run", tmp_path / "run/latest"):
        with pytest.raises(CheckpointError, match="latest is damaged: it names no checkpoint of its run"):
            find_checkpoint(path)


@pytest.mark.parametrize("pointer", ["latest", "best"])
def test_a_pointer_that_is_a_folder_is_said(tmp_path: Path, pointer: str) -> None:
    (tmp_path / pointer).mkdir()
    with pytest.raises(CheckpointError, match=f"{pointer} is a folder; it should be a file"):
        find_checkpoint(tmp_path / pointer)


def test_a_frozen_state_is_linked_only_while_every_bit_is_the_same(tmp_path: Path) -> None:
    weight, previous = torch.zeros(100_000), None
    written = []
    for number in range(1, 5):
        if number == 3:
            weight[54_321] = -0.0  # equal as a number, and other bits
        snapshot = Snapshot(f"epoch_{number}", {"a.pt": {"w": weight}}, frozenset({"a.pt"}))
        previous = write_checkpoint(tmp_path, snapshot, previous)
        written.append((previous / "a.pt").stat().st_ino)
        read_manifest(previous)
        assert torch.equal(load_tensors(previous / "a.pt")["w"].signbit(), weight.signbit())
    assert written[0] == written[1] != written[2] == written[3]


def test_without_epochs_the_newest_steps_stay(tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path, keep=2, epochs=False)
    for step in (4, 8, 12, 16):
        writer.submit(Snapshot(checkpoint_name(0, step, None), {"a.pt": {}}))
    writer.close()
    assert sorted(p.name for p in tmp_path.glob("step_*")) == ["step_12", "step_16"]


def test_weights_of_another_model_are_named_by_parameter_and_shape(tmp_path: Path) -> None:
    torch.save({"0.weight": torch.ones(3, 2), "0.bias": torch.ones(2)}, tmp_path / "eyes.pt")
    with pytest.raises(CheckpointError, match="does not fit component 'eyes'") as raised:
        load_component(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)), tmp_path / "eyes.pt")
    assert "its 0.weight is of shape (3, 2) instead of (2, 2), it lacks 1.weight" in str(raised.value)


def test_a_state_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"w": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="cannot be read as a state of tensors"):
        load_tensors(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_a_failed_write_is_raised_and_leaves_the_older_checkpoint(checkpoint: Path) -> None:
    writer = CheckpointWriter(checkpoint.parent)
    writer.submit(Snapshot("epoch_2", {"a.pt": {}}, files=[checkpoint.parent / "gone.yaml"]))
    with pytest.raises(CheckpointError, match="could not be written"):
        writer.close()
    assert find_checkpoint(checkpoint.parent) == checkpoint
    assert not (checkpoint.parent / "epoch_2").exists()
    assert not (checkpoint.parent / "epoch_2.incomplete").exists()


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.1])
def test_a_writer_that_is_killed_leaves_whole_checkpoints_only(tmp_path: Path, delay: float) -> None:
    code = f"""
        import torch
        from pathlib import Path
        from trainer.checkpoint.folder import Snapshot, write_checkpoint
        for n in range(1, 10_000):
            snapshot = Snapshot(f"epoch_{{n}}", {{"a.pt": torch.zeros(300_000)}})
            write_checkpoint(Path({str(tmp_path)!r}), snapshot)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
    try:
        while not (tmp_path / "latest").exists():
            time.sleep(0.01)
        time.sleep(delay)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    for folder in tmp_path.glob("epoch_*"):
        if not folder.name.endswith(".incomplete"):
            read_manifest(folder)
    read_manifest(find_checkpoint(tmp_path))
