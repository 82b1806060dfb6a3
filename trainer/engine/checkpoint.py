"""Checkpoints: folders that exist whole or not at all, written beside the training, checked when read."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.utils.files import whole_file, whole_folder, write_json
from trainer.utils.tree import tree_map

MANIFEST = "manifest.json"
LATEST = "latest"
TRAINING_STATE = "training_state.pt"


class CheckpointError(RuntimeError):
    """A checkpoint is missing, incomplete or damaged."""


@dataclass(frozen=True)
class Snapshot:
    """Everything that a checkpoint folder will hold, copied to the host so that training can go on.

    Attributes:
        name: name of the folder: `epoch_<N>`, or `step_<N>` within an epoch.
        tensors: file name → state to save with torch.
        files: small files of the run that make the checkpoint self-contained.
        facts: put into the manifest: step, epoch, versions.
    """

    name: str
    tensors: Mapping[str, Any]
    files: list[Path] = field(default_factory=list)
    facts: Mapping[str, Any] = field(default_factory=dict)


def to_host(state: Any) -> Any:
    """Return a copy of a state on the CPU that later updates do not touch."""
    return tree_map(lambda x: x.detach().to("cpu", copy=True) if isinstance(x, Tensor) else x, state)


class CheckpointWriter:
    """Writes snapshots in the background, one at a time.

    A failed write is raised by the next `submit` or by `wait`; the checkpoints before it stay as they are.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[Path] | None = None

    def submit(self, snapshot: Snapshot) -> None:
        """Write a snapshot as soon as the one before it is done."""
        self.wait()
        self._pending = self._executor.submit(write_checkpoint, self.run, snapshot)

    def wait(self) -> None:
        """Return when nothing is being written.

        Raises:
            CheckpointError: the last write failed, and why.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            try:
                pending.result()
            except OSError as error:
                raise CheckpointError(
                    f"the checkpoint could not be written to {self.run}: {error}"
                ) from error

    def close(self) -> None:
        """Wait for the last write and let the thread go."""
        try:
            self.wait()
        finally:
            self._executor.shutdown()


def write_checkpoint(run: Path, snapshot: Snapshot) -> Path:
    """Write one checkpoint folder and point `latest` at it.

    The manifest is written last inside `<name>.incomplete`, which then takes its name. Of the checkpoints
    within epochs only the newest is kept, since it is there to go on from.
    """
    target = run / snapshot.name
    with whole_folder(target, replace=True) as folder:
        for name, state in snapshot.tensors.items():
            torch.save(state, folder / name)
        for source in snapshot.files:
            copy = folder / source.relative_to(run)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
        write_json(folder / MANIFEST, {"format": 1, **snapshot.facts, "files": _inventory(folder)})
    with whole_file(run / LATEST) as temporary:
        temporary.write_text(f"{snapshot.name}\n", encoding="utf-8")
    for older in run.glob("step_*"):
        if older != target:
            shutil.rmtree(older, ignore_errors=True)
    return target


def _inventory(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Check a checkpoint against its manifest and return it.

    Raises:
        CheckpointError: the folder or its manifest is missing, or a file is missing, short or changed.
    """
    if not folder.is_dir():
        raise CheckpointError(f"there is no checkpoint folder {folder}")
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = manifest["files"]
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint {folder} has no {MANIFEST}, so it was never completed") from None
    except (ValueError, KeyError):
        raise CheckpointError(f"{folder / MANIFEST} is damaged; use another checkpoint") from None
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"checkpoint {folder} lacks its file {name}; use another checkpoint")
        if path.stat().st_size != expected["size"] or _sha256(path) != expected["sha256"]:
            raise CheckpointError(f"{path} is damaged (size or checksum differ); use another checkpoint")
    return manifest


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint folder that a path means: itself, or the latest one of a run folder.

    Raises:
        CheckpointError: there is none.
    """
    if (path / MANIFEST).is_file():
        return path
    pointer = path / LATEST
    if pointer.is_file():
        folder = path / pointer.read_text(encoding="utf-8").strip()
        replaced = folder.with_name(f"{folder.name}.replaced")
        return folder if folder.exists() or not replaced.exists() else replaced
    if not path.is_dir():
        raise CheckpointError(f"there is no folder {path}")
    if re.fullmatch(r"(epoch|step)_\d+", path.name):
        raise CheckpointError(f"checkpoint {path} has no {MANIFEST}, so it was never completed")
    raise CheckpointError(f"{path} holds no checkpoint yet")


def load_tensors(path: Path, device: torch.device | str = "cpu") -> Any:
    """Load a state file without executing anything in it.

    Raises:
        CheckpointError: the file is missing or no plain state.
    """
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"there is no file {path}") from None
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read as a state of tensors: {error}") from error
