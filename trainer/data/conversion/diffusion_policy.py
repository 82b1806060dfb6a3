"""Diffusion Policy: a zarr folder or zip with `data/<key>` of all frames and `meta/episode_ends`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.casts import cast_numbers, is_picture
from trainer.data.conversion.source import (
    Source,
    Taken,
    column_shape,
    is_numbers,
    needed,
    number_type,
    picture_shape,
    without_clashes,
)
from trainer.data.errors import DatasetError
from trainer.utils.text import first_line


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
        ends = cast_numbers(np.asarray(root["meta/episode_ends"][:]), "int64")
        data = {key: root[f"data/{key}"] for key in sorted(root["data"].array_keys())}
        groups = sorted(root["data"].group_keys())
    except Exception as problem:  # zarr and its codecs raise anything
        reason = first_line(problem)
        raise DatasetError(f"{path}: this cannot be read as a replay buffer in zarr: {reason}") from None
    if "action" not in data:
        raise DatasetError(f"{path}: there is no data/action in it")
    if ends.ndim != 1 or not len(ends) or (np.diff(ends, prepend=0) < 1).any():
        raise DatasetError(f"{path}: meta/episode_ends does not ascend, so there are empty episodes")
    left_out = groups + [key for key, stored in data.items() if key != "action" and not is_numbers(stored)]
    data = {key: stored for key, stored in data.items() if key not in left_out}
    features = []
    longest = int(ends[-1])
    for key, stored in data.items():
        if not stored.shape or stored.shape[0] < ends[-1]:
            frames = stored.shape[0] if stored.shape else "no"
            raise DatasetError(f"{path}: data/{key} has {frames} frames, the last episode ends at {ends[-1]}")
        longest = max(longest, stored.shape[0])
        if is_picture(stored.shape[1:]) and key != "action":
            name, shape = f"observation.images.{key}", picture_shape(stored.shape[1:])
            features.append(Taken(name, "video", shape, (f"data/{key}",)))
        else:
            dtype = number_type(np.dtype(stored.dtype), f"{path}: data/{key}")
            name = key if key == "action" else f"observation.{key}"
            features.append(Taken(name, dtype, column_shape(stored.shape), (f"data/{key}",)))

    def load(place: int, key: str) -> np.ndarray:
        begin, end = int(ends[place - 1]) if place else 0, int(ends[place])
        try:
            return np.asarray(root[key][begin:end])
        except Exception as problem:  # a codec that is not there, a chunk that is damaged
            reason = first_line(problem)
            raise DatasetError(
                f"{path}: {key}: frames {begin} to {end - 1} cannot be read: {reason}"
            ) from None

    notes = {
        f"arrays that are not numbers for every frame are left out: {', '.join(left_out)}": left_out,
        f"{longest - ends[-1]} frames behind the end of the last episode are left out": longest > ends[-1],
    }
    return Source(
        features=without_clashes(features, str(path)),
        count=len(ends),
        load=load,
        where=lambda place: f"{path}: episode {place}",
        close=root.store.close,
        notes=tuple(note for note, holds in notes.items() if holds),
    )


def _store(zarr: Any, path: Path) -> Any:
    if path.is_dir():
        return str(path)
    storage = getattr(zarr, "storage", zarr)
    return storage.ZipStore(str(path), mode="r")
