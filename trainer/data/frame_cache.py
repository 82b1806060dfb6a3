"""Decoded frames of a camera on disk: built once, then read at the price of a copy."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.disk_cache import BYTES_AT_ONCE, built_once, file_digest
from trainer.data.errors import DatasetError
from trainer.data.lerobot.cameras import Camera
from trainer.utils.progress import progress_bar

_LAYOUT = 1


def cached_camera(camera: Camera, folder: Path) -> Camera:
    """Return the camera with its frames decoded on disk, decoding them now if they are not there yet.

    The file's name says which frames it holds: a hash of the content of the source files and of the place
    of every frame in them. So another dataset, another choice of episodes or a changed video has another
    file, and the same frames have the same, whoever asks. It exists whole or not at all; of several
    processes that ask at once, one builds and the others wait.

    Args:
        camera: where the frames come from.
        folder: the cache; made where it is missing.

    Raises:
        DatasetError: a frame cannot be decoded, or the disk has no room for all.
    """
    path = folder / f"{camera.key}-{_content_hash(camera, folder)}.npy"
    needed = len(camera) * int(np.prod(camera.shape))
    with built_once(path, needed, f"the decoded frames of '{camera.key}'") as temporary:
        if temporary is not None:
            _build(camera, temporary)
    return CachedCamera(camera, path)


class CachedCamera:
    """Frames that lie decoded in one file, an array `(N, 3, H, W)` that `numpy.load` opens too.

    Frames are read into the batch by their place. Mapping the file would be as fast, but every page that
    was ever touched would count as this process's memory.

    Args:
        camera: whose frames they are.
        path: the file.
    """

    frames_per_keyframe = 1.0

    def __init__(self, camera: Camera, path: Path) -> None:
        self.key, self.shape = camera.key, camera.shape
        self._camera, self._path = camera, path
        self._size = int(np.prod(self.shape))
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            self._begin = file.tell()
        self._descriptor: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_descriptor": None}

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            os.close(self._descriptor)  # type: ignore[arg-type]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._camera)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return the frames of rows `(K,)`: uint8 `(K, 3, H, W)`."""
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_RDONLY)
        out = np.empty((len(rows), *self.shape), np.uint8)
        flat, size = memoryview(out.reshape(-1)), self._size  # type: ignore[arg-type]
        for place, row in enumerate(rows.tolist()):
            target = flat[place * size : (place + 1) * size]
            if os.preadv(self._descriptor, [target], self._begin + row * size) != size:
                raise DatasetError(f"{self._path}: the cached frames end early; remove the file")
        return out

    def together(self, rows: np.ndarray) -> np.ndarray:
        """Return `rows`: nothing is decoded any more."""
        return rows

    def sources(self) -> list[Path]:
        """Return the files that the frames came from."""
        return self._camera.sources()

    def identity(self) -> np.ndarray:
        """Return what the camera says of its frames."""
        return self._camera.identity()


def _build(camera: Camera, path: Path) -> None:
    count = len(camera)
    at_once = max(1, BYTES_AT_ONCE // int(np.prod(camera.shape)))
    with path.open("wb") as file, progress_bar(count, f"decoding {camera.key}", unit="frame") as bar:
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, *camera.shape)}
        np.lib.format.write_array_header_1_0(file, header)
        for begin in range(0, count, at_once):
            frames = camera.read(np.arange(begin, min(begin + at_once, count)))
            file.write(memoryview(frames.reshape(-1)))  # type: ignore[arg-type]
            bar.update(len(frames))


def _content_hash(camera: Camera, folder: Path) -> str:
    found = hashlib.blake2b(digest_size=16)
    found.update(json.dumps([_LAYOUT, camera.shape]).encode())
    for path in camera.sources():
        found.update(file_digest(path, folder / "sources").encode())
    found.update(np.ascontiguousarray(camera.identity()).tobytes())
    return found.hexdigest()
