"""ALOHA: a folder of HDF5 files, one episode each: `action`, `observations/{qpos, qvel, images/…}`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from trainer.data.casts import PictureCast, is_picture
from trainer.data.conversion.hdf5 import array, arrays, is_group, opened
from trainer.data.conversion.source import (
    Source,
    Taken,
    column_shape,
    number_type,
    picture_at,
    picture_shape,
    without_clashes,
)
from trainer.data.errors import DatasetError

ALOHA_FPS = 50.0
"""The files do not say it; ALOHA is recorded and played at 50 Hz."""

_NAMES = {
    "action": "action",
    "observations/qpos": "observation.state",
    "observations/qvel": "observation.velocity",
    "observations/effort": "observation.effort",
    "base_action": "action.base",
}
_IMAGES = "observations/images"


def open_aloha(path: Path) -> Source:
    """Open a folder of ALOHA episodes.

    `action` stays `action`; `qpos`, `qvel` and `effort` become `observation.state`, `.velocity` and
    `.effort`; cameras become `observation.images.<name>`, whether they are stored as pixels or as JPEG.

    Raises:
        DatasetError: h5py is not installed, or a file is damaged or not such a file.
    """
    paths = sorted(path.glob("*.hdf5"), key=_number) if path.is_dir() else [path]
    if not paths:
        raise DatasetError(f"{path}: there is no .hdf5 file in it")
    files = _OneFile(paths)

    def load(place: int, key: str) -> Any:
        return array(files.opened(place), key, str(paths[place]))

    file, first = files.opened(0), str(paths[0])
    features = []
    for key, name in _NAMES.items():
        if key in ("action", "observations/qpos") or key in file:
            stored = load(0, key)
            dtype = number_type(stored.dtype, f"{first}: {key}")
            features.append(Taken(name, dtype, column_shape(stored.shape), (key,)))
    cameras = list(file[_IMAGES]) if is_group(file.get(_IMAGES)) else []
    for camera in cameras:
        key = f"{_IMAGES}/{camera}"
        stored = load(0, key)
        if is_picture(stored.shape[1:]):
            shape = picture_shape(stored.shape[1:])
        elif not len(stored):
            raise DatasetError(f"{first}: the episode is empty")
        else:
            height, width, _ = picture_at(stored, 0, PictureCast(), f"{first}: frame 0 of {key}").shape
            shape = (height, width, 3)
        features.append(Taken(f"observation.images.{camera}", "video", shape, (key,)))
    taken = {key for feature in features for key in feature.keys}
    others = [key for key, stored in arrays(file) if key not in taken and stored.shape]
    return Source(
        features=without_clashes(features, first),
        count=len(paths),
        load=load,
        where=lambda place: str(paths[place]),
        close=files.close,
        fps=ALOHA_FPS,
        robot_type="aloha (simulated)" if bool(file.attrs.get("sim", False)) else "aloha",
        notes=(f"left out: {', '.join(others)}",) if others else (),
    )


class _OneFile:
    """Files of which one is open at a time."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths
        self._place = -1
        self._file: Any = None

    def opened(self, place: int) -> Any:
        if self._file is None or place != self._place:
            self.close()
            self._file = opened(self._paths[place])
            self._place = place
        return self._file

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _number(path: Path) -> tuple[int, str]:
    digits = re.search(r"\d+$", path.stem)
    return (int(digits[0]) if digits else -1, path.name)
