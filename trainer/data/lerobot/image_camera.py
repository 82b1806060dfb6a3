"""The frames of a camera of a LeRobot dataset that lie as pictures in parquet files."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainer.data.casts import decoded_picture, picture_size
from trainer.data.errors import DatasetError
from trainer.data.lerobot.reader import LeRobotReader

IMAGE_BYTES = 256 * 2**20
"""Encoded images of parquet files that one camera keeps in memory."""


class ImageCamera:
    """A camera stored as encoded pictures in the data files."""

    frames_per_keyframe = 1.0

    def __init__(self, reader: LeRobotReader, key: str, positions: np.ndarray) -> None:
        self.key = key
        self.shape = reader.features[key].frame_shape
        self._root = reader.root
        chosen = reader.episodes.rows(positions)
        self._starts = np.cumsum(reader.episodes.length[positions]) - reader.episodes.length[positions]
        self._episodes = np.repeat(
            reader.episodes.episode_index[positions], reader.episodes.length[positions]
        )
        files = [file for file in reader.episodes.files if np.isin(file.episodes, positions).any()]
        self._paths = [file.path for file in files]
        numbers = reader.episodes.episode_index[positions]
        parts = [_picture_places(path, key, numbers) for path in self._paths]
        index = np.concatenate([index for index, _ in parts])
        places = np.concatenate([np.insert(p, 0, i, axis=1) for i, (_, p) in enumerate(parts)])
        order = np.argsort(index, kind="stable")
        self._places = places[order[np.isin(index[order], chosen)]]
        if len(self._places) != len(chosen):
            raise DatasetError(
                f"{self._paths[0]}: '{key}' has {len(self._places)} pictures for {len(chosen)} frames"
            )
        self._held: OrderedDict[tuple[int, int], pa.Array] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_held", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _held=OrderedDict(), _lock=threading.Lock())

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._places)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return the frames of rows `(K,)`: uint8 `(K, 3, H, W)`."""
        out = np.empty((len(rows), *self.shape), np.uint8)
        for place in np.argsort(rows, kind="stable"):
            file, group, item = (int(n) for n in self._places[rows[place]])
            cell = self._group(file, group)[item].as_py()
            try:
                out[place] = stored_picture(cell, self._root, self.shape).transpose(2, 0, 1)
            except ValueError as problem:
                row = int(rows[place])
                frame = row - int(self._starts[np.searchsorted(self._starts, row, side="right") - 1])
                raise DatasetError(
                    f"{self._paths[file]}: episode {self._episodes[row]} has a picture of '{self.key}' that "
                    f"cannot be read, in frame {frame}: {problem}"
                ) from None
        return out

    def together(self, rows: np.ndarray) -> np.ndarray:
        """Return `rows`: a picture needs no other."""
        return rows

    def sources(self) -> list[Path]:
        """Return the data files."""
        return list(self._paths)

    def identity(self) -> np.ndarray:
        """Return file, row group and row of every picture."""
        return self._places

    def _group(self, file: int, group: int) -> pa.Array:
        """Return the encoded pictures of a row group, those last used being at hand."""
        with self._lock:
            return self._group_held(file, group)

    def _group_held(self, file: int, group: int) -> pa.Array:
        held = self._held.pop((file, group), None)
        if held is None:
            try:
                with pq.ParquetFile(self._paths[file]) as table:
                    held = table.read_row_group(group, columns=[self.key])[self.key].combine_chunks()
            except (pa.ArrowException, OSError) as problem:
                raise DatasetError(f"{self._paths[file]}: the file is damaged: {problem}") from None
            while (
                self._held and sum(array.nbytes for array in self._held.values()) > IMAGE_BYTES - held.nbytes
            ):
                self._held.popitem(last=False)
        self._held[file, group] = held
        return held


def stored_picture(cell: Any, root: Path, shape: tuple[int, int, int], *, decode: bool = True) -> np.ndarray:
    """Return the picture of a row, uint8 `(H, W, 3)`; empty where it is not to be decoded.

    Args:
        cell: what the row holds, `bytes` or the `path` of a file below the dataset.
        root: the dataset.
        shape: (3, H, W) as the dataset declares it.
        decode: decode all of it; otherwise its header is looked at.

    Raises:
        ValueError: there is none, it cannot be read, or it has other pixels than the dataset says.
    """
    content = cell.get("bytes") if isinstance(cell, dict) else None
    path = cell.get("path") if isinstance(cell, dict) else None
    if not content and not path:
        raise ValueError("the row is empty")
    if not content:
        try:
            content = (root / str(path)).read_bytes()
        except OSError as problem:
            raise ValueError(f"there is no file {path}: {problem.strerror}") from None
    pixels = decoded_picture(content) if decode else np.empty((*picture_size(content), 0), np.uint8)
    if pixels.shape[:2] != shape[1:]:
        raise ValueError(
            f"it has {pixels.shape[0]} × {pixels.shape[1]} pixels, the dataset says {shape[1]} × {shape[2]}"
        )
    return pixels


def _picture_places(path: Path, key: str, episodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the `index` of each row of some episodes in a file, and its row group and place `(rows, 2)`."""
    try:
        with pq.ParquetFile(path) as file:
            wrong = wrong_pictures(file.schema_arrow, key)
            if wrong is not None:
                raise DatasetError(f"{path}: {wrong}")
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
            table = file.read(columns=["index", "episode_index"])
    except (pa.ArrowException, OSError) as problem:
        raise DatasetError(f"{path}: the file is truncated or damaged: {problem}") from None
    own = np.isin(table["episode_index"].to_numpy(), episodes)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    items = np.concatenate([np.arange(size) for size in sizes])
    return table["index"].to_numpy()[own], np.stack([groups, items], axis=1)[own]


def wrong_pictures(schema: pa.Schema, key: str) -> str | None:
    """Say why a data file with this schema holds no pictures of a camera; None where it does."""
    if key not in schema.names:
        return f"the column '{key}' is missing"
    if not pa.types.is_struct(schema.field(key).type):
        return f"column '{key}' holds {schema.field(key).type}, no pictures"
    return None
