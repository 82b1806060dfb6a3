"""The policy state manager: which version of the weights robots act on, and the last one on disk."""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainer.checkpoint.folder import CheckpointError
from trainer.checkpoint.writer import stand_back
from trainer.online.weights import architecture_of, pack, read_state, write_state
from trainer.utils.errors import UsageError
from trainer.utils.files import whole_folder, write_json
from trainer.utils.log import log

FOLDER = "weights"
_STATE, _NOTE, _DESCRIPTION = "latest.pt", "version.json", "description"
_REST = 4.0  # so many times as long as it took to write a version, none is written: a fifth of the disk


class PolicyStateManager:
    """Hands every reader the newest version of the weights once; versions only rise, over restarts too.

    Weights come as mappings, or as a list of one reference to where they lie, and go as they came: so only
    references pass. The newest version is written to disk beside the calls, and a manager that is started
    again serves it. Calls come one at a time.

    Args:
        folder: of the run; everything is kept in its `weights`.
        get: returns what a reference means.
        put: returns a reference to a value, or whatever readers are to be given in its place; without Ray a
            copy, which its sender cannot change.
    """

    def __init__(
        self,
        folder: str | Path,
        get: Callable[[Any], Any] = lambda reference: reference,
        put: Callable[[Any], Any] = copy.deepcopy,
    ) -> None:
        self._folder = Path(folder) / FOLDER
        self._folder.mkdir(parents=True, exist_ok=True)
        self._get, self._put = get, put
        self._readers: dict[str | None, int] = {}
        self._description: Any = None
        self._state: dict[str, Any] | None = None
        self._version, self._architecture = self._noted()
        self._on_disk = 0
        self._take_up()
        self._changed = threading.Condition()
        self._closed = False
        self._hurry = False
        self._trouble, self._failed = "", 0
        self._writer = threading.Thread(target=self._write_newest, name="weights", daemon=True)
        self._writer.start()

    def update_weights(
        self,
        weights: Any,
        *,
        architecture: str | None = None,
        step: int | None = None,
        description: Mapping[str, bytes] | None = None,
    ) -> int:
        """Take the next version and return its number.

        Args:
            weights: component → name → array, or a list of one reference to that.
            architecture: `architecture_of` the weights; computed if not given.
            step: updates that the learner had made.
            description: what belongs to the weights (see `policy_description`); it comes with the first
                version, and is on disk when this returns.

        Raises:
            UsageError: they are no weights, or of another architecture than the versions before; nothing is
                kept then.
        """
        published = time.time()
        by_reference = isinstance(weights, list) and len(weights) == 1
        if not by_reference:
            weights = pack(weights)
            architecture = architecture_of(weights)
        elif architecture is None:
            architecture = architecture_of(pack(self._get(weights[0])))
        assert architecture is not None
        if self._architecture not in (None, architecture):
            raise UsageError(
                f"these weights have other names, shapes or types than version {self._version}, so robots "
                f"that act on that one could not take them up; nothing was kept: versions in {self._folder} "
                "are of one model, so train another one in a run folder of its own"
            )
        if description is not None:
            self._keep_description(description)
        version = self._version + 1
        write_json(self._folder / _NOTE, {"version": version, "architecture": architecture})
        self._version, self._architecture = version, architecture
        state = {
            "version": version,
            "architecture": architecture,
            "step": step,
            "time": published,
            "weights": weights if by_reference else self._put(weights),
        }
        with self._changed:
            self._state = state
            self._changed.notify_all()
        return version

    def update_state(self, weights: Any, **known: Any) -> int:
        """Take the next version; another name of `update_weights`."""
        return self.update_weights(weights, **known)

    def get_state(self, reader: str | None = None, newer_than: int = 0) -> dict[str, Any] | None:
        """Return the newest version if this reader has not had it, else None.

        Args:
            reader: its name; all that give none are one reader.
            newer_than: the version that it has. A manager that was started again does not know what readers
                had before, and without this gives them the last version once more.

        Returns:
            `version`, `architecture`, `step`, `time` (in seconds since 1970, when it came) and `weights`: a
            mapping, or a list of one reference.
        """
        state = self._state
        if state is None or state["version"] <= max(newer_than, self._readers.get(reader, 0)):
            return None
        self._readers[reader] = state["version"]
        return dict(state)

    def stored_state(self) -> dict[str, Any] | None:
        """Return the last version on disk with its weights, for a reader whose reference leads nowhere."""
        self.flush()
        return read_state(self._folder / _STATE) if self._on_disk else None

    def version(self) -> int:
        """Return the number of the newest version; 0 before there is one."""
        return self._version

    def description(self) -> Any:
        """Return what belongs to the weights, a mapping or a list of one reference; None before it came."""
        if self._description is None and (folder := self._folder / _DESCRIPTION).is_dir():
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            self._description = self._put({str(p.relative_to(folder)): p.read_bytes() for p in files})
        return self._description

    def flush(self, timeout: float = 60.0) -> bool:
        """Wait until the newest version is on disk, and return whether it is."""

        def written() -> bool:
            return not self._unwritten() or self._failed == self._version

        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            self._changed.wait_for(written, timeout)
            self._hurry = False
            return not self._unwritten()

    def close(self) -> None:
        """Write the newest version and end."""
        self.flush()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._writer.join()

    def _noted(self) -> tuple[int, str | None]:
        """Return the number and the architecture of the last version that there ever was."""
        try:
            note = json.loads((self._folder / _NOTE).read_text(encoding="utf-8"))
            return int(note["version"]), note["architecture"]
        except FileNotFoundError:
            return 0, None
        except (OSError, ValueError, KeyError, TypeError):
            path = self._folder / _NOTE
            raise UsageError(
                f"{path} is damaged, so nobody knows which versions of the weights there were; remove "
                f"{self._folder} while nothing trains, and robots begin with version 1 again"
            ) from None

    def _take_up(self) -> None:
        """Serve the version on disk."""
        path = self._folder / _STATE
        if not path.exists():
            return
        try:
            state = read_state(path)
        except CheckpointError as error:
            log.warning(f"The last version of the weights is lost, and the next one is waited for: {error}")
            return
        self._on_disk = state["version"]
        self._state = {**state, "weights": self._put(state["weights"])}

    def _keep_description(self, description: Mapping[str, bytes]) -> None:
        with whole_folder(self._folder / _DESCRIPTION, replace=True) as folder:
            unpack_files(description, folder)
        self._description = self._put(dict(description))

    def _write_newest(self) -> None:
        """Write the newest version whenever there is one that is not on disk."""
        stand_back()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._unwritten())
                if self._closed:
                    return
                state = dict(self._state or {})
            began = time.monotonic()
            trouble = self._write(state)
            with self._changed:
                if trouble and trouble != self._trouble:
                    log.warning(trouble)
                self._trouble, self._failed = trouble, state["version"] if trouble else 0
                self._on_disk = self._on_disk if trouble else state["version"]
                self._changed.notify_all()
                rest = _REST * (time.monotonic() - began) + bool(trouble)
                self._changed.wait_for(lambda: self._closed or self._hurry, rest)

    def _unwritten(self) -> bool:
        return self._state is not None and self._state["version"] != self._on_disk

    def _write(self, state: dict[str, Any]) -> str:
        """Write a version; return what went wrong, or nothing."""
        weights = state["weights"]
        try:
            if isinstance(weights, list):
                weights = self._get(weights[0])
            write_state(self._folder / _STATE, {**state, "weights": pack(weights)})
        except Exception as error:  # the writer must live: the next version may find a disk with space
            text = " ".join(str(error).split())[:300]
            return f"Version {state['version']} of the weights is not on disk, only in memory: {text}"
        return ""


def unpack_files(files: Mapping[str, bytes], folder: Path) -> None:
    """Write files below a folder.

    Raises:
        UsageError: a path leads out of it.
    """
    for name, content in files.items():
        path = Path(name)
        if path.is_absolute() or ".." in path.parts:
            raise UsageError(f"the description of a policy names {name!r}, which is no file of a checkpoint")
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


class PolicyStateManagerActor(PolicyStateManager):
    """The manager as a Ray actor: weights stay in the object store, and only references pass through it.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: str | Path) -> None:
        import ray

        super().__init__(folder, get=ray.get, put=lambda value: [ray.put(value)])
