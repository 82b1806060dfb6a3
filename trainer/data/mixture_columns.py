"""The keys of a mixture's batch: which datasets have them, and what the samples of the others get."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainer.data.errors import DatasetError
from trainer.data.images import is_image
from trainer.data.windows import FLAGS

Batch = dict[str, Any]


class MixtureError(DatasetError):
    """Two datasets of a mixture do not go together.

    Attributes:
        fits_padded: whether they would if what one of them lacks were filled up.
    """

    def __init__(self, message: str, *, fits_padded: bool) -> None:
        super().__init__(message)
        self.fits_padded = fits_padded


@dataclass(frozen=True)
class Fetched:
    """What one dataset gives to a batch: its samples `(b, …)`, and their rows in the batch, int64 `(b,)`."""

    name: str
    rows: Tensor
    samples: Batch


def mixture_columns(
    samples: Mapping[str, Batch], image_keys: Collection[str], pad: bool
) -> list[TextColumn | TensorColumn]:
    """Return the columns of a mixture, in the order in which keys first appear.

    Args:
        samples: name of each dataset → a batch of it with one sample.
        image_keys: features that are camera frames.
        pad: fill up what differs.

    Raises:
        MixtureError: features differ, and padding is not asked for or cannot help.
    """
    keys = dict.fromkeys(key for one in samples.values() for key in one)
    return [_column(key, samples, image_keys, pad) for key in keys]


def _column(
    key: str, samples: Mapping[str, Batch], image_keys: Collection[str], pad: bool
) -> TextColumn | TensorColumn:
    owners = {name: one[key] for name, one in samples.items() if key in one}
    lacking = [name for name in samples if name not in owners]
    first = next(iter(owners))
    if lacking and not pad:
        raise MixtureError(f"'{first}' has '{key}', and '{lacking[0]}' has not", fits_padded=True)
    tensors = [name for name, value in owners.items() if isinstance(value, Tensor)]
    for name, value in owners.items():
        if (name in tensors) != (first in tensors) or not isinstance(value, Tensor | list | tuple):
            raise MixtureError(f"'{key}' is of another kind in '{first}' than in '{name}'", fits_padded=False)
    if not tensors:
        return TextColumn(key)
    shapes = {name: owners[name].shape[1:] for name in tensors}
    widest = max(tensors, key=lambda name: shapes[name][-1:])
    image = is_image(key, owners[widest], image_keys)
    windowed = all(f"{key}{FLAGS}" in samples[name] for name in tensors)
    own_dimensions = len(shapes[widest]) - windowed
    is_flag = key.endswith(FLAGS) and any(key.removesuffix(FLAGS) in one for one in samples.values())
    has_width = own_dimensions > 0 and not image and not is_flag
    for name in tensors:
        _check_shapes(key, (first, shapes[first]), (name, shapes[name]), has_width, pad)
    dtype = owners[widest].dtype
    for name in tensors:
        dtype = torch.promote_types(dtype, owners[name].dtype)
    differs = bool(lacking) or len(set(shapes.values())) > 1
    return TensorColumn(key, shapes[widest], dtype, fill=is_flag, flags_dimensions=has_width and differs)


def _check_shapes(
    key: str, one: tuple[str, torch.Size], other: tuple[str, torch.Size], has_width: bool, pad: bool
) -> None:
    (name, shape), (second, its_shape) = one, other
    by_width = has_width and shape[:-1] == its_shape[:-1]
    if shape != its_shape and not (by_width and pad):
        raise MixtureError(
            f"'{key}' of a sample has shape {list(shape)} in '{name}' and {list(its_shape)} in '{second}'",
            fits_padded=by_width,
        )


class TextColumn:
    """A text per sample; empty where the dataset has none."""

    def __init__(self, key: str) -> None:
        self._key = key

    def gather(self, fetched: Sequence[Fetched], size: int) -> Batch:
        """Return this key of a batch of `size` samples."""
        texts = [""] * size
        for one in fetched:
            for row, text in zip(one.rows.tolist(), one.samples.get(self._key, ()), strict=False):
                texts[row] = text
        return {self._key: texts}


class TensorColumn:
    """Numbers of one shape; zeros where the dataset has none or fewer of them.

    Args:
        key: the key.
        shape: of a sample, the largest in any dataset.
        dtype: one that holds the values of all.
        fill: what samples get whose dataset lacks the key.
        flags_dimensions: also give `<key>_dim_is_pad`.
    """

    def __init__(
        self, key: str, shape: torch.Size, dtype: torch.dtype, *, fill: bool, flags_dimensions: bool
    ) -> None:
        self._key = key
        self._shape = shape
        self._dtype = dtype
        self._fill = fill
        self._flags_dimensions = flags_dimensions

    def gather(self, fetched: Sequence[Fetched], size: int) -> Batch:
        """Return this key of a batch of `size` samples, and its flags."""
        whole = torch.full((size, *self._shape), self._fill, dtype=self._dtype)
        is_pad = torch.zeros(size, *self._shape[-1:], dtype=torch.bool)
        for one in fetched:
            value = one.samples.get(self._key)
            if value is None:
                is_pad[one.rows] = True
            elif value.shape[1:] == self._shape:
                whole[one.rows] = value.to(self._dtype)
            else:
                width = value.shape[-1]
                whole[one.rows, ..., :width] = value.to(self._dtype)
                is_pad[one.rows, width:] = True
        flags = {f"{self._key}_dim_is_pad": is_pad} if self._flags_dimensions else {}
        return {self._key: whole, **flags}
