"""One process at a time writes to a run folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

import click

from trainer.utils.errors import TrainingFault

LOCK = ".lock"
# The process before may still be ending: one that lost its launcher, or one that writes its last checkpoint.
PATIENCE_SECONDS = 30.0
_NOTICE_SECONDS = 1.0

# A lock belongs to an open file, which a forked process inherits: a loader worker that outlives the trainer
# would keep it. So forked processes close theirs; those that are started anew inherit none.
_open: set[int] = set()


def _close_in_child() -> None:
    for descriptor in _open:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _open.clear()


os.register_at_fork(after_in_child=_close_in_child)


@contextlib.contextmanager
def only_writer(run: Path, needed: bool = True) -> Iterator[None]:
    """Write to a run folder alone while the block runs; the folder is made if it is not there.

    The system takes the lock back when the process ends, however it ends, so that nothing is left to clear
    up. File systems without locks are used without.

    Args:
        run: the run folder.
        needed: only the rank that writes needs it.

    Raises:
        TrainingFault: another process writes to it and goes on doing so.
        OSError: the folder cannot be written.
    """
    if not needed:
        yield
        return
    descriptor = _locked(run)
    try:
        yield
    finally:
        if descriptor in _open:  # not in a process that was forked meanwhile
            _leave_nothing(run)
            _release(descriptor)


def _locked(run: Path) -> int:
    """Return the open lock file of a run folder, which is ours."""
    while True:
        run.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(run / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        _open.add(descriptor)
        try:
            _acquire(descriptor, run)
        except BaseException:
            _release(descriptor)
            raise
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(run / LOCK)):
                return descriptor
        _release(descriptor)  # who held it has taken the empty folder away


def _release(descriptor: int) -> None:
    _open.discard(descriptor)
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _acquire(descriptor: int, run: Path) -> None:
    started, told = time.monotonic(), False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                return
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
        waited = time.monotonic() - started
        if waited > PATIENCE_SECONDS:
            raise TrainingFault(
                f"{_owner(descriptor)} is training into {run}; two would spoil each other's files: wait for "
                "it, end it, or choose another train.save_dir"
            )
        if waited > _NOTICE_SECONDS and not told:
            click.echo(
                f"{_owner(descriptor)[0].upper()}{_owner(descriptor)[1:]} still writes to {run}; waiting up "
                f"to {PATIENCE_SECONDS:.0f} s for it to end.",
                err=True,
            )
            told = True
        time.sleep(0.1)


def _owner(descriptor: int) -> str:
    """Return who holds the lock, as far as the system tells."""
    inode = os.fstat(descriptor).st_ino
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/locks").read_text(encoding="utf-8").splitlines():
            fields = line.split()
            if fields[1] == "FLOCK" and int(fields[5].rpartition(":")[2]) == inode:
                return f"process {fields[4]}"
    return "another process, perhaps on another machine,"


def _leave_nothing(run: Path) -> None:
    """Take away a folder in which nothing was written; only who holds the lock may."""
    with contextlib.suppress(OSError):
        if os.listdir(run) == [LOCK]:
            (run / LOCK).unlink()
            run.rmdir()
