"""What caches on disk have in common: files known by their content, one builder at a time, room for it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from trainer.data.errors import DatasetError
from trainer.utils.files import whole_file, write_json

BYTES_AT_ONCE = 32 * 2**20


def default_folder() -> Path:
    """Return the user's folder for caches: `$XDG_CACHE_HOME/trainer`, or `~/.cache/trainer`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "trainer"


def file_digest(path: Path, notes: Path) -> str:
    """Return a hash of a file's content, computed anew only where its size or time of change has moved.

    Args:
        path: the file.
        notes: folder where hashes are noted; made where it is missing.
    """
    stat = path.stat()
    place = str(path.resolve())
    now = {"path": place, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    note = notes / f"{hashlib.blake2b(place.encode(), digest_size=16).hexdigest()}.json"
    try:
        known = json.loads(note.read_text(encoding="utf-8"))
        if {key: known[key] for key in now} == now:
            return str(known["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none yet, or one that cannot be read: it is written below
    found = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(BYTES_AT_ONCE):
            found.update(block)
    notes.mkdir(parents=True, exist_ok=True)
    write_json(note, {**now, "digest": found.hexdigest()})
    return found.hexdigest()


@contextlib.contextmanager
def built_once(path: Path, needed: int, what: str) -> Iterator[Path | None]:
    """Yield a temporary path to write, which becomes `path`; or None, if the file is there already.

    Of several processes that ask at once, one writes and the others wait.

    Args:
        path: the file; its folder is made where it is missing.
        needed: bytes that it will take.
        what: is in it, for people.

    Raises:
        DatasetError: the disk has no room for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file():
        yield None
        return
    with _locked(path.with_suffix(".lock")):
        if path.is_file():
            yield None
            return
        for left_over in path.parent.glob(f".{path.name}.*.incomplete"):
            left_over.unlink()  # by a process that was killed: the lock is ours
        free = shutil.disk_usage(path.parent).free
        if needed > free:
            raise DatasetError(
                f"{path.parent}: {what} take {needed / 1e9:.1f} GB, there are {free / 1e9:.1f} GB left"
            )
        with whole_file(path) as temporary:
            yield temporary


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock among processes, which ends with the process that holds it, however that ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
        path.unlink(missing_ok=True)
