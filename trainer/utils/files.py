"""Writing files that exist whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def fsync_path(path: Path) -> None:
    """Make a file's content, or a folder's list of names, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(folder: Path) -> None:
    """Make every file and folder below `folder` survive a power cut."""
    for root, _, files in os.walk(folder):
        for name in files:
            fsync_path(Path(root) / name)
        fsync_path(Path(root))


def disk_trouble(error: OSError) -> str | None:
    """Say in a clause why a disk, or a place on it, cannot be written; None where it is something else."""
    where = f", so {error.filename} cannot be written" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full{where}"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{error.filename or 'the disk'} is not writable"
    if error.errno == errno.EIO:
        return f"the disk fails{where}"
    there = error.filename2 or error.filename
    if error.errno == errno.EISDIR and there:
        return f"{there} is a folder, where a file is expected"
    if error.errno in (errno.EEXIST, errno.ENOTDIR) and there:
        return f"{there} is a file, where a folder is expected"
    return None


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the name `path`, on failure it goes.

    A reader sees the old file or the new one, never a part of either.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.incomplete")
    try:
        yield temporary
        fsync_path(temporary)
        os.replace(temporary, path)
        fsync_path(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):  # a disk that can no longer be written says so once
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = error.filename or str(path)
        raise


@contextlib.contextmanager
def whole_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Yield the empty folder `<path>.incomplete`; on success it takes the name `path`, on failure it goes.

    Args:
        path: must not exist when the block ends, unless `replace`.
        replace: an older folder `path` makes way once the new one is complete on disk.
    """
    incomplete = path.with_name(f"{path.name}.incomplete")
    replaced = path.with_name(f"{path.name}.replaced")
    shutil.rmtree(incomplete, ignore_errors=True)
    if replaced.exists():  # a writer was killed while it replaced the folder
        shutil.rmtree(replaced) if path.exists() else replaced.rename(path)
    incomplete.mkdir(parents=True)
    try:
        yield incomplete
        fsync_tree(incomplete)
        if replace and path.exists():
            path.rename(replaced)
        incomplete.rename(path)
        fsync_path(path.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    except BaseException:
        shutil.rmtree(incomplete, ignore_errors=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
