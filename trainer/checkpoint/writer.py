"""Writing checkpoints beside the training, and keeping no more of them than asked for."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import shutil
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from trainer.checkpoint.folder import (
    CheckpointError,
    Snapshot,
    checkpoint_folders,
    point_at,
    read_pointer,
    write_checkpoint,
)
from trainer.checkpoint.names import BEST, LATEST, MANIFEST, MEASURED, parse_checkpoint_name
from trainer.utils.files import disk_trouble, whole_file

# Niceness of what can wait; on Linux every thread has its own.
_PATIENCE = 10


class CheckpointWriter:
    """Writes snapshots in the background, one at a time.

    A failed write is raised by the next `check`, `submit` or `wait`; older checkpoints stay as they are.

    Args:
        run: the run folder.
        keep: how many checkpoints of epochs stay, of steps in a run without epochs; None: all of them.
        epochs: the run has epochs.

    Attributes:
        written: the last checkpoint that this process has completed.
    """

    def __init__(self, run: Path, keep: int | None = None, epochs: bool = True) -> None:
        self.run = run
        self.keep = keep
        self.epochs = epochs
        self.written: Path | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="checkpoint", initializer=stand_back)
        self._jobs: list[Future[None]] = []

    def submit(self, snapshot: Snapshot) -> None:
        """Write a snapshot as soon as the one before it is done."""
        self.wait()
        self._start(lambda: self._write(snapshot))

    def add_measured(self, name: str, state: Any, best: Mapping[str, Any] | None = None) -> None:
        """Add to a checkpoint what was measured at its moment, once it is complete.

        Args:
            name: of the checkpoint; nothing happens where it is none of this run.
            state: what to add, which must not change any more.
            best: let `best` name this checkpoint, with these facts.
        """

        def add() -> None:
            if not (self.run / name / MANIFEST).is_file():
                return
            if best is not None:
                point_at(self.run, BEST, name, best)
            content = io.BytesIO()
            torch.save(state, content)
            with whole_file(self.run / name / MEASURED) as temporary:
                temporary.write_bytes(content.getbuffer())
            self._prune()

        self._start(lambda: self._explained(name, 0, add))

    def point_at_best(self, name: str, facts: Mapping[str, Any]) -> None:
        """Let `best` name a checkpoint that is complete."""
        self._start(lambda: self._explained(name, 0, lambda: point_at(self.run, BEST, name, facts)))

    def sweep(self, and_prune: bool) -> None:
        """Remove what a killed process has left; only while nobody else writes to this run.

        Args:
            and_prune: also remove the checkpoints that are no longer asked for, which may be what a full disk
                needs; only where the run goes on from its latest one.
        """

        def work() -> None:
            sweep(self.run)
            if and_prune and read_pointer(self.run, LATEST):
                self._prune()

        self._start(work)

    def check(self) -> None:
        """Return at once.

        Raises:
            CheckpointError: a write has failed, and why.
        """
        if self._jobs and self._jobs[0].done():
            self._jobs.pop(0).result()

    def wait(self) -> None:
        """Return when nothing is being written.

        Raises:
            CheckpointError: a write has failed, and why.
        """
        jobs, self._jobs = self._jobs, []
        for job in jobs:
            job.result()

    def close(self) -> None:
        """Wait for the last write and let the thread go."""
        try:
            self.wait()
        finally:
            self._executor.shutdown()

    def _start(self, job: Callable[[], None]) -> None:
        self._jobs.append(self._executor.submit(job))

    def _write(self, snapshot: Snapshot) -> None:
        snapshot.prepare()
        needed = snapshot.size()
        self.written = self._explained(snapshot.name, needed, lambda: self._write_whole(snapshot, needed))
        self._prune()

    def _prune(self) -> None:
        prune(self.run, self.keep, "epoch" if self.epochs else "step")

    def _write_whole(self, snapshot: Snapshot, needed: int) -> Path:
        if self.run.is_dir() and shutil.disk_usage(self.run).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_checkpoint(self.run, snapshot, self.written)

    def _explained(self, name: str, needed: int, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except OSError as error:
            raise CheckpointError(self._explain(error, name, needed)) from error

    def _explain(self, error: OSError, name: str, needed: int) -> str:
        """Say in one sentence what could not be written, why, and from where the run can go on."""
        if not self.run.is_dir():
            return f"checkpoint {name} could not be written: the run folder {self.run} is gone"
        latest = read_pointer(self.run, LATEST)
        intact = f"; {latest[0]} is intact" if latest else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(self.run).free
            why = f"the disk is full ({needed / 1e6:,.2f} MB needed, {free / 1e6:,.2f} MB free)"
        else:
            why = disk_trouble(error) or str(error)
        return f"checkpoint {name} could not be written to {self.run}: {why}{intact}"


def stand_back() -> None:
    """Let this thread compute where the training leaves a core to it, if the system has such a thing."""
    with contextlib.suppress(OSError, AttributeError):
        thread = threading.get_native_id()
        niceness = max(_PATIENCE, os.getpriority(os.PRIO_PROCESS, thread))
        os.setpriority(os.PRIO_PROCESS, thread, niceness)


def prune(run: Path, keep: int | None, lasting: str = "epoch") -> None:
    """Remove the checkpoints that are no longer asked for; called when a newer one is complete.

    Of the kind that lasts, the `keep` newest stay; of those within epochs, the newest while it is the latest.
    What `latest` and `best` name always stays. A folder gives up its name before its files go.
    """
    named = [read_pointer(run, pointer) for pointer in (LATEST, BEST)]
    protected = {pointer[0] for pointer in named if pointer}
    found = list(checkpoint_folders(run))
    kept = sorted((number, path) for kind, number, path in found if kind == lasting)
    old = [path for kind, _, path in found if kind == "step" != lasting]
    old += [path for _, path in (kept[:-keep] if keep is not None else [])]
    for path in old:
        if path.name not in protected:
            removed = path.with_name(f".{path.name}.removed")
            try:
                shutil.rmtree(removed, ignore_errors=True)
                path.rename(removed)
            except OSError:
                continue  # what cannot be removed does no harm
            shutil.rmtree(removed, ignore_errors=True)


def sweep(run: Path) -> None:
    """Remove what a writer that was killed has left, and give a folder back the name that it had lost."""
    for path in list(run.iterdir()) if run.is_dir() else ():
        name, ending = path.stem, path.suffix
        if ending == ".replaced" and parse_checkpoint_name(name):
            if not path.with_suffix("").exists():
                path.rename(path.with_suffix(""))
            shutil.rmtree(path, ignore_errors=True)
        elif (ending == ".incomplete" and parse_checkpoint_name(name)) or (
            ending == ".removed" and parse_checkpoint_name(name.removeprefix("."))
        ):
            shutil.rmtree(path, ignore_errors=True)
        elif _is_left_over(path):
            path.unlink(missing_ok=True)
        elif parse_checkpoint_name(path.name) and path.is_dir():
            for left in filter(_is_left_over, list(path.iterdir())):
                left.unlink(missing_ok=True)


def _is_left_over(path: Path) -> bool:
    """Say whether a file was being written by a process that is gone."""
    match = re.fullmatch(r"\..+\.(\d+)\.incomplete", path.name)
    return match is not None and int(match[1]) != os.getpid()
