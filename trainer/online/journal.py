"""The journal of what was collected: a file per episode, lossless, on disk before the episode counts."""

from __future__ import annotations

import contextlib
import io
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trainer.online.episode import Episode
from trainer.utils.errors import UsageError
from trainer.utils.files import whole_file

_FACTS = "facts"
_COLUMN = "columns/"
_HEADER_BYTES = 4096
_PER_STEP = ("control_mode", "labelled", "policy_version")


class JournalError(UsageError):
    """The journal cannot be read or written; one sentence names the file."""


class Entry(NamedTuple):
    """An episode as it stands in the journal.

    Attributes:
        number: of the episode; they ascend.
        key: by which its source tells it from its others, or None.
        episode: what was played.
    """

    number: int
    key: str | None
    episode: Episode


class Journal:
    """A folder of numbered episodes.

    A file is written beside and renamed, so that one that is there is whole, and carries checksums, so that
    one that was damaged later is not taken for another. Only one process may write.

    Args:
        folder: made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".*.incomplete"):  # of a writer that was killed
            leftover.unlink()

    def numbers(self) -> list[int]:
        """Return the numbers of the episodes, ascending."""
        return sorted(int(path.stem) for path in self.folder.glob("*.npz") if path.stem.isdecimal())

    def append(self, number: int, episode: Episode, key: str | None = None) -> None:
        """Write an episode; when this returns, it survives whatever ends the process or the machine.

        Raises:
            JournalError: there is an episode of this number, or the disk does not take it.
        """
        path = self._path(number)
        if path.exists():
            raise JournalError(f"{path} is there already: two replay buffers write to one folder; end one")
        facts = {
            "key": key,
            "task": episode.task,
            "success": episode.success,
            "source": episode.source,
            "start_seed": episode.start_seed,
        }
        arrays: dict[str, Any] = {name: getattr(episode, name) for name in _PER_STEP}
        arrays |= {_COLUMN + name: column for name, column in episode.columns.items()}
        arrays[_FACTS] = np.frombuffer(json.dumps(facts).encode(), np.uint8)
        try:
            with whole_file(path) as temporary, temporary.open("wb") as file:
                np.savez(file, **arrays)
        except OSError as error:
            raise JournalError(
                f"{path} cannot be written ({error.strerror or error}), so the episode does not count; make "
                "room on the disk and send it again"
            ) from error

    def read(self, number: int, columns: bool = True) -> Entry:
        """Return an episode.

        Args:
            number: of the episode.
            columns: read its columns too; without them the rest takes little time.

        Raises:
            JournalError: the file is missing or damaged.
        """
        path = self._path(number)
        with _explained(path), np.load(path, allow_pickle=False) as stored:
            facts = json.loads(stored[_FACTS].tobytes())
            names = [name for name in stored.files if name.startswith(_COLUMN)] if columns else []
            episode = Episode(
                columns={name.removeprefix(_COLUMN): stored[name] for name in names},
                **{name: stored[name] for name in _PER_STEP},
                task=facts["task"],
                success=facts["success"],
                source=facts["source"],
                start_seed=facts["start_seed"],
            )
            return Entry(number, facts["key"], episode)

    def mapped(self, number: int, names: Iterable[str]) -> dict[str, np.ndarray]:
        """Return columns of an episode as they lie on disk, of which the system reads what is looked at.

        Raises:
            JournalError: the file is missing or has no such columns.
        """
        path = self._path(number)
        with _explained(path), zipfile.ZipFile(path) as stored:
            content = np.memmap(path, np.uint8, mode="r").view(np.ndarray)
            return {name: _member(content, stored.getinfo(f"{_COLUMN}{name}.npy")) for name in names}

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.npz"


def _member(content: np.ndarray, info: zipfile.ZipInfo) -> np.ndarray:
    """Return an array of what `np.savez` wrote, which is not compressed, where it lies in the file."""
    lengths = struct.unpack_from("<HH", content.data, info.header_offset + 26)  # of its name and what follows
    begin = info.header_offset + 30 + sum(lengths)
    header = io.BytesIO(content[begin : begin + _HEADER_BYTES].tobytes())
    np.lib.format.read_magic(header)
    shape, _, dtype = np.lib.format.read_array_header_1_0(header)
    first = begin + header.tell()
    return content[first : first + math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise JournalError(
            f"{path}: the episode is missing or damaged ({reason}); restore the file, or move it away to go "
            "on without this episode"
        ) from error
