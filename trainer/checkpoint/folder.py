"""Checkpoints: folders that exist whole or not at all, checked when they are read."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from trainer.checkpoint.staging import Copies
from trainer.utils.files import fsync_path, whole_file, whole_folder, write_json
from trainer.utils.tree import tree_map

MANIFEST = "manifest.json"
LATEST = "latest"
BEST = "best"
TRAINING_STATE = "training_state.pt"


class CheckpointError(RuntimeError):
    """A checkpoint is missing, incomplete or damaged, or cannot be written."""


@dataclass(frozen=True)
class Unchanged:
    """A state that is the same as in the checkpoint before, so that its file can be had without writing it.

    Attributes:
        state: the state itself, for when that file is gone.
    """

    state: Any


@dataclass(frozen=True)
class Snapshot:
    """Everything that a checkpoint folder will hold, on its way to the host while training goes on.

    Attributes:
        name: name of the folder: `epoch_<N>`, or `step_<N>` within an epoch.
        tensors: file name → state to save with torch, or `Unchanged`.
        files: small files of the run that make the checkpoint self-contained.
        facts: put into the manifest: step, epoch, versions.
        copies: what is still being copied into `tensors`; None where they are complete.
        flushed: files of the run that must be on disk before the run can go on from this checkpoint.
    """

    name: str
    tensors: Mapping[str, Any]
    files: list[Path] = field(default_factory=list)
    facts: Mapping[str, Any] = field(default_factory=dict)
    copies: Copies | None = None
    flushed: list[Path] = field(default_factory=list)

    def size(self) -> int:
        """Return about how many bytes the files take."""
        return 100_000 + sum(_bytes(s) for s in self.tensors.values() if not isinstance(s, Unchanged))


def to_host(state: Any) -> Any:
    """Return a copy of a state on the CPU that later updates do not touch."""
    return tree_map(lambda x: x.detach().to("cpu", copy=True) if isinstance(x, Tensor) else x, state)


def write_checkpoint(run: Path, snapshot: Snapshot, previous: Path | None = None) -> Path:
    """Write one checkpoint folder and point `latest` at it.

    The manifest is written last inside `<name>.incomplete`, which then takes its name. What is `Unchanged` is
    a hard link to the file of the previous checkpoint, or a copy of it where there are no links.

    Args:
        run: the run folder.
        snapshot: what to write.
        previous: the checkpoint whose files `Unchanged` means.

    Raises:
        OSError: the folder cannot be written.
        TornError: the snapshot is worth nothing.
    """
    if not run.is_dir():
        raise FileNotFoundError(f"the run folder {run} is gone")
    target = run / snapshot.name
    with whole_folder(target, replace=True) as folder:
        inventory = {}
        for name, state in snapshot.tensors.items():
            if isinstance(state, Unchanged):
                inventory[name] = _take_over(folder / name, previous, state)
            else:
                inventory[name] = _save(folder / name, state)
        for source in snapshot.files:
            copy = folder / source.relative_to(run)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
            inventory[str(copy.relative_to(folder))] = _entry(copy)
        if snapshot.copies is not None:
            snapshot.copies.check()
        files = dict(sorted(inventory.items()))
        write_json(folder / MANIFEST, {"format": 1, **snapshot.facts, "files": files})
    for path in snapshot.flushed:
        if path.exists():
            fsync_path(path)
    point_at(run, LATEST, snapshot.name)
    return target


def point_at(run: Path, pointer: str, name: str, facts: Mapping[str, Any] | None = None) -> None:
    """Let `latest` or `best` name a checkpoint; what is known about it stands in the second line."""
    with whole_file(run / pointer) as temporary:
        note = f"{json.dumps(facts)}\n" if facts else ""
        temporary.write_text(f"{name}\n{note}", encoding="utf-8")


def read_pointer(run: Path, pointer: str) -> tuple[str, dict[str, Any]] | None:
    """Return the name that `latest` or `best` holds and what is known about it; None without a usable one."""
    try:
        name, _, note = (run / pointer).read_text(encoding="utf-8").partition("\n")
        return (name.strip(), json.loads(note) if note.strip() else {}) if name.strip() else None
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


class _Hashing:
    """A file that knows the checksum of what was written to it, so that it need not be read again."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.size = 0
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write `data` and return its length."""
        self.digest.update(data)
        try:
            written = self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        self.size += written
        return written

    def flush(self) -> None:
        """Hand over what is buffered."""
        self._file.flush()


def _save(path: Path, state: Any) -> dict[str, Any]:
    with path.open("wb") as file:
        hashing = _Hashing(file)
        try:
            torch.save(state, hashing)  # type: ignore[arg-type]
        except RuntimeError:  # torch's own, which hides why it could not write
            if hashing.error is not None:
                raise hashing.error from None
            raise
    return {"size": hashing.size, "sha256": hashing.digest.hexdigest()}


def _take_over(path: Path, previous: Path | None, unchanged: Unchanged) -> dict[str, Any]:
    """Link or copy a file of the previous checkpoint; write it anew where that one is gone."""
    if previous is None:
        return _save(path, to_host(unchanged.state))
    before = previous / path.name
    try:
        entry: dict[str, Any] = json.loads((previous / MANIFEST).read_text(encoding="utf-8"))["files"][
            path.name
        ]
        if before.stat().st_size != entry["size"]:
            return _save(path, to_host(unchanged.state))
    except (FileNotFoundError, ValueError, KeyError):
        return _save(path, to_host(unchanged.state))
    try:
        os.link(before, path)
    except OSError:  # a file system without links
        shutil.copyfile(before, path)
    return entry


def _bytes(state: Any) -> int:
    """Return the bytes of the tensors of a state, each counted once, as torch saves them."""
    sizes: dict[int, int] = {}

    def add(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            storage = leaf.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
        return leaf

    tree_map(add, state)
    return sum(sizes.values())


def _entry(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "sha256": _sha256(path)}


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
        if path.stat().st_size != expected["size"]:
            size = f"{path.stat().st_size:,} bytes instead of {expected['size']:,}"
            raise CheckpointError(f"{path} is damaged ({size}); use another checkpoint")
        if _sha256(path) != expected["sha256"]:
            raise CheckpointError(f"{path} is damaged (its checksum differs); use another checkpoint")
    return manifest


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint folder that a path means.

    Args:
        path: the folder itself; `<run>/latest` or `<run>/best`; or a run folder, of which it is the latest.

    Raises:
        CheckpointError: there is none.
    """
    if (path / MANIFEST).is_file():
        return path
    pointer = path if path.is_file() and path.name in (LATEST, BEST) else path / LATEST
    if pointer.is_file():
        named = read_pointer(pointer.parent, pointer.name)
        if named is None:
            raise CheckpointError(f"{pointer} is damaged: it names no checkpoint")
        folder = pointer.parent / named[0]
        replaced = folder.with_name(f"{folder.name}.replaced")
        return folder if folder.exists() or not replaced.exists() else replaced
    if path.name == BEST and path.parent.is_dir():
        raise CheckpointError(f"{path.parent} has no best checkpoint: set train.checkpoint.best")
    if not path.is_dir():
        raise CheckpointError(f"there is no folder {path}")
    if re.fullmatch(r"(epoch|step)_\d+", path.name):
        raise CheckpointError(f"checkpoint {path} has no {MANIFEST}, so it was never completed")
    raise CheckpointError(f"{path} holds no checkpoint yet")


def checkpoint_folders(run: Path) -> Iterator[tuple[str, int, Path]]:
    """Yield kind (`epoch` or `step`), number and path of every checkpoint folder of a run, in no order."""
    for path in run.iterdir():
        match = re.fullmatch(r"(epoch|step)_(\d+)", path.name)
        if match and path.is_dir():
            yield match[1], int(match[2]), path


def newest_good_checkpoint(run: Path) -> tuple[Path, int] | None:
    """Return the whole checkpoint that has come furthest, and its number of updates; None without one."""
    found = []
    for _, _, path in checkpoint_folders(run) if run.is_dir() else ():
        try:
            manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            found.append((int(manifest["iteration"]), path))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    for iteration, path in sorted(found, reverse=True):
        try:
            read_manifest(path)
        except CheckpointError:
            continue
        return path, iteration
    return None


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
