"""Diffusion Policy: a zarr folder or zip with `data/<key>` of all frames and `meta/episode_ends`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.conversion.source import (
    Columns,
    Frames,
    Source,
    as_picture,
    column_shape,
    float_scale,
    is_picture,
    needed,
    number_type,
    picture_size,
)
from trainer.data.errors import DatasetError


def open_diffusion_policy(path: Path) -> Source:
    """Open a replay buffer of Diffusion Policy, a `.zarr` folder or a `.zarr.zip`.

    `action` stays `action`, `state` becomes `observation.state`, pictures become
    `observation.images.<key>` and every other array `observation.<key>`.

    Raises:
        DatasetError: zarr is not installed, or this is damaged or no such buffer.
    """
    zarr = needed("zarr", "zarr folders")
    try:
        root = zarr.open_group(_store(zarr, path), mode="r")
        ends = np.asarray(root["meta/episode_ends"][:], np.int64)
        data = {key: root[f"data/{key}"] for key in sorted(root["data"].array_keys())}
    except Exception as problem:  # zarr and its codecs raise anything
        reason = next(iter(str(problem).strip().splitlines()), type(problem).__name__)
        raise DatasetError(f"{path}: this cannot be read as a replay buffer in zarr: {reason}") from None
    if "action" not in data:
        raise DatasetError(f"{path}: there is no data/action in it")
    if not len(ends) or (np.diff(ends, prepend=0) < 1).any():
        raise DatasetError(f"{path}: meta/episode_ends does not ascend, so there are empty episodes")
    for key, array in data.items():
        if array.shape[0] < ends[-1]:
            raise DatasetError(
                f"{path}: data/{key} has {array.shape[0]} frames, the last episode ends at {ends[-1]}"
            )
    names = {key: _name(key, array.shape[1:]) for key, array in data.items()}
    pictures = {key for key, array in data.items() if is_picture(array.shape[1:])}
    features: dict[str, tuple[str, tuple[int, ...]]] = {}
    for key, array in data.items():
        if key in pictures:
            features[names[key]] = ("video", picture_size(array.shape[1:]))
        else:
            dtype = number_type(np.dtype(array.dtype), f"{path}: data/{key}")
            features[names[key]] = (dtype, column_shape(array.shape))

    def read(place: int) -> Columns:
        begin, end = int(ends[place - 1]) if place else 0, int(ends[place])
        columns: Columns = {}
        for key, array in data.items():
            values = _read(array, begin, end, f"{path}: data/{key}")
            if key in pictures:
                columns[names[key]] = _frames(values, f"{path}: data/{key} of episode {place}")
            else:
                columns[names[key]] = values.reshape(-1, *features[names[key]][1])
        return columns

    return Source(features=features, count=len(ends), read=read)


def _store(zarr: Any, path: Path) -> Any:
    if path.is_dir():
        return str(path)
    storage = getattr(zarr, "storage", zarr)
    return storage.ZipStore(str(path), mode="r")


def _name(key: str, shape: tuple[int, ...]) -> str:
    if key == "action":
        return key
    return f"observation.images.{key}" if is_picture(shape) else f"observation.{key}"


def _read(array: Any, begin: int, end: int, where: str) -> np.ndarray:
    try:
        return np.asarray(array[begin:end])
    except Exception as problem:  # a codec that is not there, a chunk that is damaged
        raise DatasetError(f"{where}: frames {begin} to {end - 1} cannot be read: {problem}") from None


def _frames(values: np.ndarray, where: str) -> Frames:
    scale = float_scale(values)
    return Frames(len(values), lambda i: as_picture(values[i], scale, where))
