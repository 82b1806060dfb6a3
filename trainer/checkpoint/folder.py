"""Checkpoints: folders that exist whole or not at all, checked when they are read."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from trainer.checkpoint.names import BEST, LATEST, MANIFEST, parse_checkpoint_name
from trainer.utils.files import fsync_path, whole_file, whole_folder, write_json
from trainer.utils.text import first_line
from trainer.utils.tree import tree_map

# More than any manifest or pointer of ours; what is larger is not read.
_LARGEST_TEXT = 1 << 24


class CheckpointError(RuntimeError):
    """A checkpoint is missing, incomplete or damaged, or cannot be written."""


@dataclass(frozen=True)
class Snapshot:
    """Everything that a checkpoint folder will hold.

    Attributes:
        name: name of the folder.
        tensors: file name → state to save with torch.
        frozen: files of states that are thought to be the same as in the checkpoint before. One that is, to
            the byte, is not written again.
        files: small files of the run that make the checkpoint self-contained.
        facts: put into the manifest: step, epoch, versions.
        flushed: files of the run that must be on disk before the run can go on from this checkpoint.
        prepare: called first by whoever writes: waits for copies, and raises where the state is not worth
            being kept.
    """

    name: str
    tensors: Mapping[str, Any]
    frozen: frozenset[str] = frozenset()
    files: list[Path] = field(default_factory=list)
    facts: Mapping[str, Any] = field(default_factory=dict)
    flushed: list[Path] = field(default_factory=list)
    prepare: Callable[[], None] = lambda: None

    def size(self) -> int:
        """Return about how many bytes the files take that are surely written."""
        return 100_000 + sum(_bytes(state) for name, state in self.tensors.items() if name not in self.frozen)


def write_checkpoint(run: Path, snapshot: Snapshot, previous: Path | None = None) -> Path:
    """Write one checkpoint folder and point `latest` at it.

    The manifest is written last inside `<name>.incomplete`, which then takes its name. A frozen state that
    has not changed is a hard link to the file of the previous checkpoint, or a copy where there are no links.

    Args:
        run: the run folder.
        snapshot: what to write.
        previous: the checkpoint before this one.

    Raises:
        OSError: the folder cannot be written.
    """
    if not run.is_dir():
        raise FileNotFoundError(f"the run folder {run} is gone")
    target = run / snapshot.name
    with whole_folder(target, replace=True) as folder:
        inventory = {}
        for name, state in snapshot.tensors.items():
            before = None if previous is None or name not in snapshot.frozen else previous / name
            inventory[name] = _take_over(folder / name, before, state) or _save(folder / name, state)
        for source in snapshot.files:
            copy = folder / source.relative_to(run)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
            inventory[str(copy.relative_to(folder))] = _entry(copy)
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
        name, _, note = _text(run / pointer).partition("\n")
        facts = json.loads(note) if note.strip() else {}
    except (OSError, ValueError, RecursionError):
        return None
    if parse_checkpoint_name(name.strip()) is None:  # a name that could lead out of the run is none of ours
        return None
    return name.strip(), facts if isinstance(facts, dict) else {}


class _Hashing:
    """A file that knows the checksum of what was written to it, so that it need not be read again."""

    def __init__(self, file: BinaryIO | None) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._size = 0
        self.error: OSError | None = None

    @property
    def entry(self) -> dict[str, Any]:
        """What the manifest says of the file."""
        return {"size": self._size, "sha256": self._digest.hexdigest()}

    def write(self, data: Any) -> int:
        """Write `data` and return its length."""
        self._digest.update(data)
        try:
            written = len(data) if self._file is None else self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        self._size += written
        return written

    def flush(self) -> None:
        """Hand over what is buffered."""
        if self._file is not None:
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
    return hashing.entry


def _take_over(path: Path, before: Path | None, state: Any) -> dict[str, Any] | None:
    """Link or copy a file of the previous checkpoint that holds just this state; None where it does not."""
    if before is None:
        return None
    hashing = _Hashing(None)
    torch.save(state, hashing)  # type: ignore[arg-type]
    try:
        known = load_manifest(before.parent)["files"].get(before.name)
        if known != hashing.entry or before.stat().st_size != known["size"]:
            return None
    except (CheckpointError, OSError):
        return None
    try:
        os.link(before, path)
    except OSError:  # a file system without links
        shutil.copyfile(before, path)
    return hashing.entry


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
        CheckpointError: the folder or its manifest is missing or damaged, or a file is missing, short or
            changed.
    """
    manifest = load_manifest(folder)
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"checkpoint {folder} lacks its file {name}; use another checkpoint")
        if path.stat().st_size != expected["size"]:
            size = f"{path.stat().st_size:,} bytes instead of {expected['size']:,}"
            raise CheckpointError(f"{path} is damaged ({size}); use another checkpoint")
        if _sha256(path) != expected["sha256"]:
            raise CheckpointError(f"{path} is damaged (its checksum differs); use another checkpoint")
    return manifest


def load_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a checkpoint; whether the files are what it says is not looked at.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    if not folder.is_dir():
        raise CheckpointError(f"there is no checkpoint folder {folder}")
    path = folder / MANIFEST
    if not path.exists():
        raise CheckpointError(f"checkpoint {folder} has no {MANIFEST}, so it was never completed")
    try:
        manifest = json.loads(_text(path))
    except (OSError, ValueError, RecursionError):
        raise CheckpointError(f"{path} is damaged; use another checkpoint") from None
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict) or not all(map(_is_entry, files.values())):
        raise CheckpointError(f"{path} is damaged: it lists no files and sizes; use another checkpoint")
    outside = next((n for n in files if Path(n).is_absolute() or ".." in Path(n).parts), None)
    if outside is not None:
        raise CheckpointError(f"{path} is damaged: {outside!r} is no file of a checkpoint; use another one")
    return dict(manifest)


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and type(entry.get("size")) is int and isinstance(entry.get("sha256"), str)


def _text(path: Path) -> str:
    """Return the text of a small file.

    Raises:
        OSError: it cannot be read, or is not small.
        ValueError: it is no text.
    """
    if path.stat().st_size > _LARGEST_TEXT:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return path.read_text(encoding="utf-8")


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint folder that a path means.

    Args:
        path: the folder itself; `<run>/latest` or `<run>/best`; or a run folder, of which it is the latest.

    Raises:
        CheckpointError: there is none.
    """
    if (path / MANIFEST).is_file():
        return path
    pointer = path if path.name in (LATEST, BEST) and not path.is_dir() else path / LATEST
    if pointer.is_file():
        return _pointed_at(pointer)
    wrong = pointer if pointer.is_dir() else path if path.name in (LATEST, BEST) and path.is_dir() else None
    if wrong is not None:
        raise CheckpointError(f"{wrong} is a folder; it should be a file that names a checkpoint")
    if path.name == BEST and path.parent.is_dir():
        raise CheckpointError(f"{path.parent} has no best checkpoint: set train.checkpoint.best")
    if not path.is_dir():
        raise CheckpointError(f"there is no folder {path}")
    if parse_checkpoint_name(path.name):
        raise CheckpointError(f"checkpoint {path} has no {MANIFEST}, so it was never completed")
    raise CheckpointError(f"{path} holds no checkpoint yet")


def weights_folder(path: Path, components: Iterable[str]) -> Path:
    """Return the folder of weights that a path means: one that holds them itself, or that of a checkpoint.

    Args:
        path: a folder with `<component>.pt`, or what `find_checkpoint` accepts.
        components: names of the components.

    Raises:
        CheckpointError: there is none.
    """
    if any((path / f"{name}.pt").is_file() for name in components):
        return path
    return find_checkpoint(path)


def _pointed_at(pointer: Path) -> Path:
    named = read_pointer(pointer.parent, pointer.name)
    if named is None:
        raise CheckpointError(f"{pointer} is damaged: it names no checkpoint of its run")
    folder = pointer.parent / named[0]
    replaced = folder.with_name(f"{folder.name}.replaced")
    return folder if folder.exists() or not replaced.exists() else replaced


def checkpoint_folders(run: Path) -> Iterator[tuple[str, int, Path]]:
    """Yield kind (`epoch` or `step`), number and path of every checkpoint folder of a run, in no order."""
    for path in run.iterdir():
        parsed = parse_checkpoint_name(path.name)
        if parsed and path.is_dir():
            yield *parsed, path


def iteration_of(checkpoint: Path) -> int | None:
    """Return how many updates a checkpoint has behind it; None where its manifest does not say."""
    try:
        iteration = load_manifest(checkpoint).get("iteration")
    except CheckpointError:
        return None
    return iteration if type(iteration) is int else None


def newest_good_checkpoint(run: Path) -> tuple[Path, int] | None:
    """Return the whole checkpoint that has come furthest, and its number of updates; None without one."""
    folders = [path for _, _, path in checkpoint_folders(run)] if run.is_dir() else []
    found = [(n, path) for path in folders if (n := iteration_of(path)) is not None]
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
        reason = first_line(error)
        raise CheckpointError(f"{path} cannot be read as a state of tensors: {reason}") from error


def check_fits(component: str, wanted: Mapping[str, Any], found: Any, path: Path | str) -> None:
    """Make sure that weights are those of a component.

    Args:
        component: name of the component.
        wanted: its state.
        found: what the file holds.
        path: the file, or what else the weights come from.

    Raises:
        CheckpointError: they are not, and which parameters differ.
    """
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{path} holds no weights by name, but a {type(found).__name__}")
    problems = []
    for name, value in wanted.items():
        if name not in found:
            problems.append(f"it lacks {name}")
        elif isinstance(value, Tensor) and not is_lazy(value):
            shape = tuple(found[name].shape) if isinstance(found[name], Tensor) else None
            if shape != tuple(value.shape):
                has = type(found[name]).__name__ if shape is None else f"of shape {shape}"
                problems.append(f"its {name} is {has} instead of {tuple(value.shape)}")
    problems += [f"its {name} is not part of the component" for name in found if name not in wanted]
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(
            f"{path} does not fit component '{component}': {', '.join(problems[:3])}{more}; "
            "the weights are those of another model"
        )
