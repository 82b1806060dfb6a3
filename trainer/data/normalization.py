"""The one place that normalizes and denormalizes: in training, in evaluation and on the robot."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from model_constructor import did_you_mean
from torch import Tensor

from trainer.data.images import is_image
from trainer.data.lerobot.info import BOOKKEEPING
from trainer.data.statistics import RESOLUTION, by_dataset, mixture_key

MODES = ("mean_std", "min_max", "quantile", "none")
DEFAULT_MODE = "mean_std"
EPSILON = 1e-8
CONSTANT = 4
"""A dimension is constant where it varies by no more than so many times what its storage can tell apart."""

_UNKNOWN_RESOLUTION = 1e-6
"""Share of its size by which a constant may vary where nothing tells how it is stored."""

_FLOAT32_ERROR = 1e-3
"""Values are mapped in float64 where rounding them to float32 first could err by more, after mapping."""

STATE = "observation.state"
CURRENT = "observation.current"
PROPRIO = "observation.proprio_state"
DATASET_INDEX = "dataset_index"
"""Which dataset of a mixture a sample comes from: int64 `(B,)`."""


class Normalizer:
    """Maps features to the range that networks like, and back.

    Every floating-point feature that is in the batch and in the statistics is mapped to float32, except
    images and bookkeeping; one of integers or booleans only if `modes` names it:

    - `mean_std`: (x − mean) / (std + 1e-8).
    - `min_max`: min … max to −1 … 1.
    - `quantile`: 1 % … 99 % quantile to −1 … 1 (values beyond stay beyond); a dimension whose quantiles
      coincide although it moves uses its min and max.
    - `none`: unchanged.

    A constant dimension becomes 0, and a 0 becomes the constant on the way back: whatever a robot measures
    there was never seen to vary in training, and dividing by next to nothing would blow it up. What counts as
    varying depends on how precisely it is stored: see `CONSTANT`. Values with a large offset, such as metres
    on a map or seconds since 1970, are mapped in float64.

    Where the batch has `observation.state`, `observation.proprio_state` is a copy of it, normalized; where
    it also has `observation.current`, `observation.state` becomes both, joined along the last dimension.

    A mixture of datasets has one set of statistics for each, under `<dataset>/<feature>`. Every sample is
    mapped by those of its own, which the batch's `dataset_index` tells. A robot is that of one dataset:
    `for_dataset` gives its normalizer, which also widens what the robot measures to what the policy was
    trained on, by zeros, and cuts its actions to those that the robot has.

    Args:
        stats: feature → statistic → array of the feature's shape.
        modes: one mode for all features, or feature → mode; a feature that is not named has `mean_std`.
        dataset: of a mixture, the one that everything comes from; `dataset_index` tells if not given.

    Attributes:
        datasets: names of the datasets of a mixture, in the order of `dataset_index`; empty for one dataset.
        modes: how each feature is mapped; those that are not named stay as they are.

    Raises:
        ValueError: a mode is not known, is given for a feature without statistics, or needs statistics
            that are not there; or there is no such dataset.
    """

    def __init__(
        self,
        stats: Mapping[str, Mapping[str, Any]],
        modes: str | Mapping[str, str] = DEFAULT_MODE,
        dataset: str | None = None,
    ) -> None:
        self._stats = {key: {name: np.array(v) for name, v in one.items()} for key, one in stats.items()}
        self._modes: str | dict[str, str] = modes if isinstance(modes, str) else dict(modes)
        parts = by_dataset(self._stats)
        self.datasets = tuple(name for name in parts if name is not None)
        self._dataset = dataset
        if dataset is not None and dataset not in self.datasets:
            hint = did_you_mean(dataset, self.datasets) if self.datasets else "they are of one, unnamed"
            raise ValueError(f"there is no dataset '{dataset}' in these statistics; {hint}")
        self._row = None if dataset is None else self.datasets.index(dataset)
        features = list(dict.fromkeys(key for part in parts.values() for key in part))
        named = {} if isinstance(modes, str) else modes
        for key in named:
            if key not in features:
                hint = did_you_mean(key, features, "there are some for")
                raise ValueError(f"a normalization is given for '{key}', which has no statistics; {hint}")
        self._maps: dict[str, _Affine] = {}
        self.modes: dict[str, str] = {}
        for key in features:
            mode = modes if isinstance(modes, str) else named.get(key, DEFAULT_MODE)
            if mode not in MODES:
                raise ValueError(f"'{mode}' is no normalization of '{key}'; {did_you_mean(mode, MODES)}")
            has = [(name, part[key]) for name, part in parts.items() if key in part]
            if key not in named and all(_is_whole(values) for _, values in has):
                mode = "none"
            if mode == "none" and not self.datasets:
                continue
            if key not in BOOKKEEPING and not any(_per_channel(values) for _, values in has):
                if mode != "none":
                    self.modes[key] = mode
                maps = {name: _centre_and_scale(mixture_key(name, key), values, mode) for name, values in has}
                self._maps[key] = _Affine(
                    [maps.get(name) for name in parts],
                    maps_values=mode != "none",
                    maps_integers=key in named and all(RESOLUTION in values for _, values in has),
                )

    def for_dataset(self, name: str | None = None) -> Normalizer:
        """Return the normalizer of one robot.

        Args:
            name: a dataset of the mixture; its first one if not given. Without a mixture there is nothing to
                choose.

        Raises:
            ValueError: there is no such dataset.
        """
        if name is None and not self.datasets:
            return self
        return Normalizer(self._stats, self._modes, self.datasets[0] if name is None else name)

    def normalize(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return the batch with its features normalized; the given one stays as it is.

        Args:
            batch: feature → tensor whose last dimensions are the feature's shape; other values pass through.
                Of a mixture, `dataset_index` `(B,)` too.

        Raises:
            ValueError: the statistics are those of several datasets, and nothing tells which are meant.
        """
        result = dict(batch)
        rows: int | Tensor = 0
        if self._row is not None:
            rows = self._row
            self._widen(result)
        elif self.datasets:
            rows = self._rows(batch)
        for key, affine in self._maps.items():
            value = result.get(key)
            if isinstance(value, Tensor) and affine.takes(key, value):
                result[key] = affine.apply(value, rows)
        join_proprio(result)
        return result

    def _rows(self, batch: Mapping[str, Any]) -> Tensor:
        rows = batch.get(DATASET_INDEX)
        if not isinstance(rows, Tensor):
            raise ValueError(
                f"the statistics are those of {len(self.datasets)} datasets, and the batch has no "
                f"'{DATASET_INDEX}'; for one robot, choose among {', '.join(self.datasets)}"
            )
        return rows

    def _widen(self, batch: dict[str, Any]) -> None:
        """Give a robot's observations the shapes of the mixture, by zeros."""
        frames: tuple[int, ...] | None = None
        for key, affine in self._maps.items():
            value = batch.get(key)
            if isinstance(value, Tensor):
                batch[key] = affine.widened(value)
                frames = frames or affine.leading(value)
        for key, affine in self._maps.items():
            if key not in batch and self._row not in affine.owners and frames is not None:
                batch[key] = torch.zeros(*frames, *affine.shape)

    def normalize_observation(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """Do the same for what a robot measures: numpy arrays become tensors, float64 becomes float32."""
        tensors = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in observation.items()}
        return {
            key: value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
            for key, value in self.normalize(tensors).items()
        }

    def denormalize(self, key: str, tensor: Tensor) -> Tensor:
        """Return a feature in its own units again; one that is not normalized comes back as it is.

        Numbers whose offset is too large for float32 come back as float64.
        """
        affine = self._maps.get(key)
        if affine is None:
            return tensor
        if self.datasets and self._row is None:
            raise ValueError(
                f"'{key}' has other units in each of {', '.join(self.datasets)}; choose one of them first"
            )
        return affine.undo(tensor, self._row or 0)

    def to_dict(self) -> dict[str, Any]:
        """Return what makes an equal normalizer, as plain dicts, texts and numpy arrays."""
        return {"stats": self._stats, "modes": self._modes, "dataset": self._dataset}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Normalizer:
        """Return the normalizer that `to_dict` described."""
        return cls(plain["stats"], plain["modes"], plain["dataset"])


def join_proprio(batch: dict[str, Any]) -> None:
    """Copy `observation.state` to `observation.proprio_state`, and join the currents to it, if any.

    Called on a batch whose state is that of the joints alone.
    """
    state = batch.get(STATE)
    if isinstance(state, Tensor):
        batch[PROPRIO] = state.clone()
        if CURRENT in batch:
            batch[STATE] = torch.cat([state, batch[CURRENT]], dim=-1)


class _Affine:
    """y = (x − centre) / scale for each dataset; a scale of 0 marks a constant, which becomes 0.

    Args:
        maps: centre and scale of the feature in each dataset, or None where it has not got the feature. The
            last dimension may be smaller in some; what they lack is a constant zero.
        maps_values: whether values are mapped at all, or only their dimensions matter.
        maps_integers: whether integers and booleans are mapped too.
    """

    def __init__(
        self,
        maps: Sequence[tuple[np.ndarray, np.ndarray] | None],
        *,
        maps_values: bool = True,
        maps_integers: bool = False,
    ) -> None:
        self._maps_values, self._maps_integers = maps_values, maps_integers
        self.owners = {row for row, one in enumerate(maps) if one is not None}
        own = [one[0].shape for one in maps if one is not None]
        self.shape = max(own, key=lambda shape: shape[-1:])
        self._widths = [None if one is None else one[0].shape[-1:] for one in maps]
        centre, scale = (np.zeros((len(maps), *self.shape)) for _ in range(2))
        for row, one in enumerate(maps):
            if one is not None:
                # A number without dimensions has no last one to fill.
                inside = (..., slice(one[0].shape[-1])) if one[0].ndim else ...
                centre[row, ...][inside], scale[row, ...][inside] = one
        rounding = np.abs(centre) * float(np.finfo(np.float32).eps) / 2
        self._dtype = torch.float64 if (rounding > _FLOAT32_ERROR * scale)[scale > 0].any() else torch.float32
        self._centre = torch.from_numpy(centre).to(self._dtype)
        self._scale = torch.from_numpy(scale).to(self._dtype)
        # x / ∞ is 0 for every finite x: no mask, no branch.
        self._divisor = torch.where(self._scale == 0, torch.inf, self._scale)

    def takes(self, key: str, x: Tensor) -> bool:
        """Tell whether a value is mapped."""
        if not x.is_floating_point():
            return self._maps_integers
        # Statistics of pictures may come with the dataset, in shapes that are not those of the pictures.
        return not (is_image(key, x) and tuple(x.shape[x.ndim - len(self.shape) :]) != self.shape)

    def apply(self, x: Tensor, rows: int | Tensor) -> Tensor:
        if not self._maps_values:
            return x
        x = x.to(self._dtype)
        return ((x - self._of(self._centre, rows, x)) / self._of(self._divisor, rows, x)).float()

    def undo(self, y: Tensor, row: int) -> Tensor:
        y = y.to(self._dtype) if self._maps_values else y
        x = y * self._of(self._scale, row, y) + self._of(self._centre, row, y) if self._maps_values else y
        width = self._widths[row]
        return x[..., : width[0]] if width else x

    def _of(self, values: Tensor, rows: int | Tensor, x: Tensor) -> Tensor:
        """Return the values of one dataset, or of each sample's own `(B, 1, …, *shape)`."""
        if isinstance(rows, int):
            return values[rows].to(x)
        between = (1,) * (x.ndim - 1 - len(self.shape))
        return values[rows.to(values.device)].view(-1, *between, *self.shape).to(x)

    def leading(self, x: Tensor) -> tuple[int, ...]:
        """Return the dimensions of `x` before those of the feature."""
        return tuple(x.shape[: x.ndim - len(self.shape)])

    def widened(self, x: Tensor) -> Tensor:
        """Return `x` with zeros for the dimensions that its dataset has not got."""
        lacks = self.shape[-1] - x.shape[-1] if self.shape else 0
        return torch.nn.functional.pad(x, (0, lacks)) if lacks > 0 else x


def _centre_and_scale(key: str, stats: Mapping[str, np.ndarray], mode: str) -> tuple[np.ndarray, np.ndarray]:
    def of(name: str) -> np.ndarray:
        if name not in stats:
            raise ValueError(
                f"the statistics of '{key}' have no '{name}', which its normalization '{mode}' needs"
            )
        return np.asarray(stats[name], np.float64)

    if mode == "none":
        shape = next(values.shape for name, values in stats.items() if name != "count")
        return np.zeros(shape), np.ones(shape)
    constant = functools.partial(is_constant, resolution=stats.get(RESOLUTION))
    if mode == "mean_std":
        mean, std = of("mean"), of("std")
        still = std <= _UNKNOWN_RESOLUTION * np.abs(mean) + EPSILON
        if RESOLUTION in stats:
            still = constant(of("min"), of("max")) | (std <= EPSILON)
        return mean, np.where(still, 0.0, std + EPSILON)
    low, high = of("min"), of("max")
    if mode == "quantile":
        q_low, q_high = of("q01"), of("q99")
        still = constant(q_low, q_high)
        low, high = np.where(still, low, q_low), np.where(still, high, q_high)
    return (low + high) / 2, np.where(constant(low, high), 0.0, (high - low) / 2)


def is_constant(low: np.ndarray, high: np.ndarray, resolution: np.ndarray | None) -> np.ndarray:
    """Tell which numbers hardly vary between `low` and `high`, by the `RESOLUTION` of storage if known."""
    if resolution is None:
        noise = _UNKNOWN_RESOLUTION * np.maximum(np.abs(low), np.abs(high))
    else:
        noise = CONSTANT * resolution
    still: np.ndarray = high - low <= noise + EPSILON
    return still


def _is_whole(stats: Mapping[str, np.ndarray]) -> bool:
    """Tell statistics of integers or booleans, as far as they say so."""
    return RESOLUTION in stats and not stats[RESOLUTION].any()


def _per_channel(stats: Mapping[str, np.ndarray]) -> bool:
    """Tell statistics of pictures, which are of shape (C, 1, 1)."""
    shape = next(iter(stats.values())).shape if "mean" not in stats else stats["mean"].shape
    return len(shape) == 3 and shape[1:] == (1, 1)
