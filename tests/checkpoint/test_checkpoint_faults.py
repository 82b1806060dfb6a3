"""What happens to checkpoints when disk, folder or file fail: one sentence, and the last one is whole."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.checkpoints import damage

from trainer.checkpoint.folder import (
    CheckpointError,
    Snapshot,
    find_checkpoint,
    point_at,
    read_manifest,
    write_checkpoint,
)
from trainer.checkpoint.writer import CheckpointWriter, prune, sweep
from trainer.offline_trainer import attempt, train

Write = Callable[..., Path]
BIG = {"a.pt": {"w": torch.ones(400_000)}}  # 1.6 MB


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB, which only root can make."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def one_good(run: Path) -> CheckpointWriter:
    writer = CheckpointWriter(run)
    writer.submit(Snapshot("epoch_1", {"a.pt": {"w": torch.ones(1000)}}, facts={"iteration": 11}))
    writer.wait()
    return writer


def what_is_said(writer: CheckpointWriter, snapshot: Snapshot) -> str:
    writer.submit(snapshot)
    while True:
        try:
            writer.check()
        except CheckpointError as error:
            writer.close()
            return str(error)


@pytest.mark.parametrize("noticed", ["before writing", "while writing"])
def test_a_full_disk(small_disk: Path, monkeypatch: pytest.MonkeyPatch, noticed: str) -> None:
    writer = one_good(small_disk)
    (small_disk / "filler").write_bytes(b"0" * 1_000_000)
    if noticed == "while writing":
        free = [SimpleNamespace(free=1 << 40)]
        real = shutil.disk_usage
        monkeypatch.setattr(shutil, "disk_usage", lambda path: free.pop() if free else real(path))
    said = what_is_said(writer, Snapshot("epoch_2", BIG))
    assert (
        f"checkpoint epoch_2 could not be written to {small_disk}: the disk is full (1.70 MB needed, " in said
    )
    assert said.endswith("MB free); epoch_1 is intact")
    assert "(1.70 MB needed, 1.0" in said or "(1.70 MB needed, 1.1" in said, (
        "what was half written counts not"
    )
    assert sorted(p.name for p in small_disk.iterdir()) == ["epoch_1", "filler", "latest"]
    read_manifest(find_checkpoint(small_disk))


def test_a_read_only_disk(small_disk: Path) -> None:
    writer = one_good(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    said = what_is_said(writer, Snapshot("epoch_2", BIG))
    assert said.startswith(f"checkpoint epoch_2 could not be written to {small_disk}: ")
    assert said.endswith("is not writable; epoch_1 is intact")
    read_manifest(find_checkpoint(small_disk))


def test_a_run_folder_that_is_gone(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    writer = one_good(run)
    shutil.rmtree(run)
    said = what_is_said(writer, Snapshot("epoch_2", BIG))
    assert said == f"checkpoint epoch_2 could not be written: the run folder {run} is gone"
    assert not run.exists(), "a folder with nothing but a checkpoint in it would pass for a run"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("short", r"epoch_2/velocity_decoder\.pt is damaged \([\d,]+ bytes instead of [\d,]+\)"),
        ("flipped", r"epoch_2/velocity_decoder\.pt is damaged \(its checksum differs\)"),
        ("gone", r"epoch_2 lacks its file velocity_decoder\.pt"),
        ("no manifest", r"epoch_2 has no manifest\.json, so it was never completed"),
        ("bad manifest", r"epoch_2/manifest\.json is damaged"),
    ],
)
def test_damage_names_the_file_and_the_way_on(tiny_experiment: Write, kind: str, message: str) -> None:
    path = tiny_experiment()
    run = train(path)
    damage(run / "epoch_2", kind, "velocity_decoder.pt")
    outcome = attempt(path, ["train.epoch=3"])
    assert outcome.code != 0
    assert re.search(message, outcome.text)
    assert "the newest whole checkpoint is epoch_1, after 11 updates" in outcome.text
    way_on = outcome.text.split("go on from it with --set ")[1].strip()
    assert way_on == f"train.checkpoint.resume_from={run / 'epoch_1'}"
    assert not (run / "epoch_3").exists(), "an older checkpoint is not taken unasked"
    train(path, ["train.epoch=3", way_on])
    for epoch in (1, 2, 3):
        read_manifest(run / f"epoch_{epoch}")
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 33


def test_an_empty_pointer_is_damage(tiny_experiment: Write) -> None:
    path = tiny_experiment()
    run = train(path)
    (run / "latest").write_text("")
    outcome = attempt(path, ["train.epoch=3"])
    assert (
        "latest is damaged: it names no checkpoint of its run; the newest whole checkpoint is epoch_2"
        in outcome.text
    )


def checkpoints(run: Path, names: list[str]) -> None:
    for name in names:
        write_checkpoint(run, Snapshot(name, {"a.pt": {"w": torch.ones(10)}}))


class Killed(BaseException):
    """Stands for a process that ends at this point."""


@pytest.mark.parametrize("after", range(12))
def test_pruning_that_is_killed_anywhere_leaves_whole_checkpoints_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    checkpoints(tmp_path, ["epoch_1", "epoch_2", "step_25", "epoch_3", "epoch_4"])
    point_at(tmp_path, "best", "epoch_1")
    calls = iter(range(after))

    def dying(function: Callable[..., object]) -> Callable[..., object]:
        def wrapper(*arguments: object, **settings: object) -> object:
            if next(calls, None) is None:
                raise Killed
            return function(*arguments, **settings)

        return wrapper

    with monkeypatch.context() as patch:
        for name in ("unlink", "rmdir", "rename"):
            patch.setattr(os, name, dying(getattr(os, name)))
        with contextlib.suppress(Killed):
            prune(tmp_path, keep=1)
    for folder in [*tmp_path.glob("epoch_*"), *tmp_path.glob("step_*")]:
        read_manifest(folder)
    assert find_checkpoint(tmp_path).name == "epoch_4"
    assert find_checkpoint(tmp_path / "best").name == "epoch_1"
    sweep(tmp_path)
    prune(tmp_path, keep=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best", "epoch_1", "epoch_4", "latest"]


def test_what_a_killed_writer_left_is_swept(tmp_path: Path) -> None:
    checkpoints(tmp_path, ["epoch_1", "epoch_2"])
    (tmp_path / "epoch_2").rename(tmp_path / "epoch_2.replaced")
    for name in ("epoch_3.incomplete", ".epoch_0.removed", "evaluations.incomplete"):
        (tmp_path / name / "below").mkdir(parents=True)
    (tmp_path / ".latest.1.incomplete").write_text("epoch_3")
    (tmp_path / f".run.json.{os.getpid()}.incomplete").write_text("{")
    sweep(tmp_path)
    kept = {"epoch_1", "epoch_2", "latest", "evaluations.incomplete", f".run.json.{os.getpid()}.incomplete"}
    assert {p.name for p in tmp_path.iterdir()} == kept
    read_manifest(find_checkpoint(tmp_path))


def test_a_quota_reads_like_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = one_good(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(torch, "save", refuse)
    assert "the disk is full (1.70 MB needed" in what_is_said(writer, Snapshot("epoch_2", BIG))
