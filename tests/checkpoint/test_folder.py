"""Checkpoints exist whole or not at all, and damage is found when they are read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import damage

from trainer.checkpoint.folder import (
    CheckpointError,
    Snapshot,
    find_checkpoint,
    load_tensors,
    read_manifest,
    write_checkpoint,
)
from trainer.checkpoint.writer import CheckpointWriter


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
