"""Writing checkpoints beside the training, and keeping no more of them than asked for."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click

from trainer.checkpoint.folder import (
    BEST,
    LATEST,
    MANIFEST,
    CheckpointError,
    Snapshot,
    checkpoint_folders,
    point_at,
    read_pointer,
    write_checkpoint,
)
from trainer.checkpoint.staging import TornError, stand_back
from trainer.utils.files import disk_trouble


class CheckpointWriter:
    """Writes snapshots in the background, one at a time.

    A failed write is raised by the next `check`, `submit` or `wait`; older checkpoints stay as they are.

    Args:
        run: the run folder.
        keep: how many epoch checkpoints stay; None: all of them.

    Attributes:
        written: the last checkpoint that this process has completed.
    """

    def __init__(self, run: Path, keep: int | None = None) -> None:
        self.run = run
        self.keep = keep
        self.written: Path | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="checkpoint", initializer=stand_back)
        self._jobs: list[Future[None]] = []

    def submit(self, snapshot: Snapshot) -> None:
        """Write a snapshot as soon as the one before it is done."""
        self.wait()
        self._start(lambda: self._write(snapshot))

    def point_at_best(self, name: str, facts: Mapping[str, Any]) -> None:
        """Let `best` name a checkpoint once it is complete."""

        def point() -> None:
            if (self.run / name / MANIFEST).is_file():
                point_at(self.run, BEST, name, facts)
                prune(self.run, self.keep)

        self._start(lambda: self._explained(name, 0, point))

    def sweep(self, and_prune: bool) -> None:
        """Remove what a killed process has left; only while nobody else writes to this run.

        Args:
            and_prune: also remove the checkpoints that are no longer asked for, which may be what a full disk
                needs; only where the run goes on from its latest one.
        """

        def work() -> None:
            sweep(self.run)
            if and_prune and read_pointer(self.run, LATEST):
                prune(self.run, self.keep)

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
        copies = snapshot.copies
        try:
            if copies is not None:
                copies.finish()
            needed = snapshot.size()
            self.written = self._explained(snapshot.name, needed, lambda: self._write_whole(snapshot, needed))
        except TornError as error:
            click.echo(
                f"Warning: checkpoint {snapshot.name} is left out, because {error}; they are copied at once "
                "from now on.",
                err=True,
            )
            return
        finally:
            if copies is not None:
                copies.release()
        prune(self.run, self.keep)

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


def prune(run: Path, keep: int | None) -> None:
    """Remove the checkpoints that are no longer asked for; called when a newer one is complete.

    Of those within epochs the newest stays while it is the latest; of those of epochs the `keep` newest. What
    `latest` and `best` name always stays. A folder gives up its name before its files go.
    """
    named = [read_pointer(run, pointer) for pointer in (LATEST, BEST)]
    protected = {pointer[0] for pointer in named if pointer}
    found = list(checkpoint_folders(run))
    epochs = sorted((number, path) for kind, number, path in found if kind == "epoch")
    old = [path for kind, _, path in found if kind == "step"]
    old += [path for _, path in (epochs[:-keep] if keep is not None else [])]
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
        if re.fullmatch(r"(epoch|step)_\d+\.replaced", path.name):
            original = path.with_suffix("")
            if not original.exists():
                path.rename(original)
            shutil.rmtree(path, ignore_errors=True)
        elif re.fullmatch(r"(epoch|step)_\d+\.incomplete|\.(epoch|step)_\d+\.removed", path.name):
            shutil.rmtree(path, ignore_errors=True)
        elif (match := re.fullmatch(r"\..+\.(\d+)\.incomplete", path.name)) and int(match[1]) != os.getpid():
            path.unlink(missing_ok=True)
