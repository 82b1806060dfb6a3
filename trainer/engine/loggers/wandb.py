"""Weights & Biases: online with a key, offline without one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from trainer.registry import LOGGER_REGISTRY
from trainer.templates import RunIdentity

_BLOCK, _FILE_HEADER, _RECORD_HEADER = 32 * 1024, 7, 7
_FULL, _LAST = 1, 4


@LOGGER_REGISTRY.register("wandb")
class WandbLogger:
    """Logs to Weights & Biases: project is the task, the run's name is `train.project_name`.

    The environment variable WANDB_MODE wins over `mode`; `disabled` logs nothing. Without a key or a network
    the run is logged offline, in `<run>/wandb`, and `wandb sync` uploads it.

    Args:
        project: another project.
        entity: the team or user it belongs to; your own by default.
        mode: `auto` is online where there is a key, else offline.
    """

    def __init__(
        self,
        project: str | None = None,
        entity: str | None = None,
        mode: Literal["auto", "online", "offline", "disabled"] = "auto",
    ) -> None:
        self.project = project
        self.entity = entity
        self.mode = os.environ.get("WANDB_MODE") or mode
        self._run: Any = None

    def start(self, run: RunIdentity) -> int:
        """Start the run, or go on with it."""
        if self.mode == "disabled":
            return run.first_step - 1
        import wandb

        mode: Any = ("online" if _has_key() else "offline") if self.mode == "auto" else self.mode
        logged = last_logged_step(run.folder)
        options: dict[str, Any] = {
            "project": self.project or run.project,
            "entity": self.entity,
            "name": run.name,
            "config": dict(run.config),
            "dir": str(run.folder),
            "id": run.id,
            "resume": "allow",
            "settings": wandb.Settings(silent=True, console="off"),
        }
        try:
            self._run = wandb.init(mode=mode, **options)
        except wandb.errors.CommError:
            if mode != "online":
                raise
            self._run = wandb.init(mode="offline", **options)
        return max(logged, self._run.starting_step - 1)

    def log(self, rows: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Hand numbers over; a process of Weights & Biases takes them from there."""
        if self._run is not None:
            for step, values in rows:
                self._run.log(dict(values), step=step)

    def finish(self) -> None:
        """End the run."""
        if self._run is not None:
            self._run.finish()


def _has_key() -> bool:
    import wandb

    try:
        return bool(wandb.login(prompt=False, verify=False))
    except Exception:  # a broken netrc is a missing key, and no reason to stop a run
        return False


def last_logged_step(folder: Path) -> int:
    """Return the last step in the offline logs of a run folder, or -1.

    A process that was killed may have logged less than it handed over, and more than its last checkpoint.
    """
    steps = [step for path in (folder / "wandb").glob("*run-*/*.wandb") for step in logged_steps(path)]
    return max(steps, default=-1)


def logged_steps(path: Path) -> Iterator[int]:
    """Yield the step of every row of metrics in an offline log; what is cut short at its end is left out."""
    return (step for step, _ in logged_rows(path))


def logged_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield step and values of every row of metrics in an offline log, as `logged_steps` does."""
    from wandb.proto import wandb_internal_pb2 as messages

    for data in _records(path.read_bytes()):
        record = messages.Record()  # type: ignore[attr-defined]
        record.ParseFromString(data)
        if record.HasField("history"):
            items = record.history.item
            values = {".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}
            yield int(record.history.step.num), values


def _records(content: bytes) -> Iterator[bytes]:
    """Yield the records of a log in LevelDB's format: blocks of 32 KiB, in which records come in pieces.

    A piece has a header of checksum (4 bytes), length (2) and kind (1): full, first, middle or last.
    """
    place, pieces = _FILE_HEADER, b""
    while place + _RECORD_HEADER <= len(content):
        left = _BLOCK - place % _BLOCK
        if left < _RECORD_HEADER:
            place += left
            continue
        length = int.from_bytes(content[place + 4 : place + 6], "little")
        kind = content[place + 6]
        place += _RECORD_HEADER
        if kind == 0 or place + length > len(content):
            return
        pieces += content[place : place + length]
        place += length
        if kind in (_FULL, _LAST):
            yield pieces
            pieces = b""
