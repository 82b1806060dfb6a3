"""ALOHA: a folder of HDF5 files, one episode each: `action`, `observations/{qpos, qvel, images/…}`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.conversion.source import (
    Columns,
    Frames,
    Source,
    column_shape,
    decoded_picture,
    is_picture,
    needed,
    number_type,
)
from trainer.data.errors import DatasetError

ALOHA_FPS = 50.0
"""The files do not say it; ALOHA is recorded and played at 50 Hz."""

_NAMES = {
    "qpos": "observation.state",
    "qvel": "observation.velocity",
    "effort": "observation.effort",
}


def open_aloha(path: Path) -> Source:
    """Open a folder of ALOHA episodes.

    `action` stays `action`; `qpos`, `qvel` and `effort` become `observation.state`, `.velocity` and
    `.effort`; cameras become `observation.images.<name>`, whether they are stored as pixels or as JPEG.

    Raises:
        DatasetError: h5py is not installed, or a file is damaged or not such a file.
    """
    h5py = needed("h5py", "ALOHA files")
    paths = sorted(path.glob("*.hdf5"), key=_number) if path.is_dir() else [path]
    if not paths:
        raise DatasetError(f"{path}: there is no .hdf5 file in it")

    def opened(place: int) -> Any:
        try:
            return h5py.File(paths[place], "r")
        except OSError as problem:
            raise DatasetError(f"{paths[place]}: this cannot be read as HDF5: {problem}") from None

    with opened(0) as file:
        if "action" not in file or "observations/qpos" not in file:
            raise DatasetError(f"{paths[0]}: there is no action or no observations/qpos in it")
        features = {"action": _described(file["action"])}
        present = [key for key in _NAMES if key in file["observations"]]
        for key in present:
            features[_NAMES[key]] = _described(file["observations"][key])
        base = "base_action" in file
        if base:
            features["action.base"] = _described(file["base_action"])
        cameras = list(file["observations"].get("images", ()))
        for camera in cameras:
            size = _frame(file["observations/images"][camera], 0, str(paths[0])).shape
            features[f"observation.images.{camera}"] = ("video", size)
        simulated = bool(file.attrs.get("sim", False))

    def read(place: int) -> Columns:
        where = str(paths[place])
        with opened(place) as file:
            wanted = ["action", *(f"observations/{key}" for key in present)]
            wanted += [f"observations/images/{camera}" for camera in cameras] + ["base_action"] * base
            for key in wanted:
                if key not in file:
                    raise DatasetError(f"{where}: there is no {key} in it, as in the first episode")
            columns: Columns = {"action": _column(file["action"])}
            for key in present:
                columns[_NAMES[key]] = _column(file["observations"][key])
            if base:
                columns["action.base"] = _column(file["base_action"])
            for camera in cameras:
                length = len(file["observations/images"][camera])
                columns[f"observation.images.{camera}"] = Frames(length, _reader(h5py, where, camera))
        return columns

    return Source(
        features=features,
        count=len(paths),
        read=read,
        fps=ALOHA_FPS,
        robot_type="aloha (simulated)" if simulated else "aloha",
    )


def _reader(h5py: Any, where: str, camera: str) -> Any:
    """Return a function that reads frame i; the file is opened at the first, and closed when it is gone."""
    opened: list[Any] = []

    def read(i: int) -> np.ndarray:
        if not opened:
            opened.append(h5py.File(where, "r"))
        return _frame(opened[0]["observations/images"][camera], i, where)

    return read


def _frame(stored: Any, i: int, where: str) -> np.ndarray:
    """Return a frame as uint8 RGB `(H, W, 3)`: pixels, or JPEG filled up with zeros."""
    if is_picture(stored.shape[1:]):
        return np.asarray(stored[i], np.uint8)
    return decoded_picture(np.asarray(stored[i]).astype(np.uint8).tobytes(), where)


def _described(column: Any) -> tuple[str, tuple[int, ...]]:
    return number_type(column.dtype, str(column.name)), column_shape(column.shape)


def _column(column: Any) -> np.ndarray:
    return np.asarray(column).reshape(-1, *column_shape(column.shape))


def _number(path: Path) -> tuple[int, str]:
    digits = re.search(r"\d+$", path.stem)
    return (int(digits[0]) if digits else -1, path.name)
