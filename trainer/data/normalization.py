"""The one place that normalizes and denormalizes: in training, in evaluation and on the robot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from model_constructor.util.suggest import closest
from torch import Tensor

from trainer.data.lerobot.info import BOOKKEEPING

MODES = ("mean_std", "min_max", "quantile", "none")
DEFAULT_MODE = "mean_std"
EPSILON = 1e-8
CONSTANT = 1e-6
"""A dimension is constant where it varies by less than this share of its size: rounding, not movement."""

STATE = "observation.state"
CURRENT = "observation.current"
PROPRIO = "observation.proprio_state"


class Normalizer:
    """Maps features to the range that networks like, and back.

    Every floating-point feature that is in the batch and in the statistics is mapped, except images and
    bookkeeping:

    - `mean_std`: (x − mean) / (std + 1e-8).
    - `min_max`: min … max to −1 … 1.
    - `quantile`: 1 % … 99 % quantile to −1 … 1 (values beyond stay beyond); a dimension whose quantiles
      coincide although it moves uses its min and max.
    - `none`: unchanged.

    A constant dimension becomes 0, and a 0 becomes the constant on the way back: whatever a robot measures
    there was never seen to vary in training, and dividing by next to nothing would blow it up.

    Where the batch has `observation.state`, `observation.proprio_state` is a copy of it, normalized; where
    it also has `observation.current`, `observation.state` becomes both, joined along the last dimension.

    Args:
        stats: feature → statistic → array of the feature's shape.
        modes: one mode for all features, or feature → mode; a feature that is not named has `mean_std`.

    Raises:
        ValueError: a mode is not known, is given for a feature without statistics, or needs statistics
            that are not there.
    """

    def __init__(
        self,
        stats: Mapping[str, Mapping[str, Any]],
        modes: str | Mapping[str, str] = DEFAULT_MODE,
    ) -> None:
        self._stats = {key: {name: np.array(v) for name, v in one.items()} for key, one in stats.items()}
        self._modes: str | dict[str, str] = modes if isinstance(modes, str) else dict(modes)
        named = {} if isinstance(modes, str) else modes
        for key in named:
            if key not in stats:
                near = closest(key, stats)
                hint = f"did you mean '{near[0]}'?" if near else f"there are some for {', '.join(stats)}"
                raise ValueError(f"a normalization is given for '{key}', which has no statistics; {hint}")
        self._maps: dict[str, _Affine] = {}
        for key, values in self._stats.items():
            mode = modes if isinstance(modes, str) else named.get(key, DEFAULT_MODE)
            if mode not in MODES:
                near = closest(mode, MODES)
                hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(MODES)}"
                raise ValueError(f"'{mode}' is no normalization of '{key}'; {hint}")
            if mode != "none" and key not in BOOKKEEPING and not _is_image(key, values):
                self._maps[key] = _Affine(*_centre_and_scale(key, values, mode))

    def normalize(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return the batch with its features normalized; the given one stays as it is.

        Args:
            batch: feature → tensor whose last dimensions are the feature's shape; other values pass through.
        """
        result = dict(batch)
        for key, affine in self._maps.items():
            value = result.get(key)
            if isinstance(value, Tensor) and value.is_floating_point():
                result[key] = affine.apply(value)
        state = result.get(STATE)
        if isinstance(state, Tensor):
            result[PROPRIO] = state.clone()
            if CURRENT in result:
                result[STATE] = torch.cat([state, result[CURRENT]], dim=-1)
        return result

    def normalize_observation(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """Do the same for what a robot measures: numpy arrays become tensors, float64 becomes float32."""
        tensors: dict[str, Any] = {}
        for key, value in observation.items():
            if isinstance(value, np.ndarray):
                value = torch.from_numpy(value.astype(np.float32) if value.dtype == np.float64 else value)
            tensors[key] = value
        return self.normalize(tensors)

    def denormalize(self, key: str, tensor: Tensor) -> Tensor:
        """Return a feature in its own units again; one that is not normalized comes back as it is."""
        affine = self._maps.get(key)
        return tensor if affine is None else affine.undo(tensor)

    def to_dict(self) -> dict[str, Any]:
        """Return what makes an equal normalizer, as plain dicts, texts and numpy arrays."""
        return {"stats": self._stats, "modes": self._modes}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Normalizer:
        """Return the normalizer that `to_dict` described."""
        return cls(plain["stats"], plain["modes"])


class _Affine:
    """y = (x − centre) / scale; a scale of 0 marks a constant, which becomes 0."""

    def __init__(self, centre: np.ndarray, scale: np.ndarray) -> None:
        self._centre = torch.from_numpy(np.asarray(centre, np.float32))
        self._scale = torch.from_numpy(np.asarray(scale, np.float32))
        # x / ∞ is 0 for every finite x: no mask, no branch.
        self._divisor = torch.where(self._scale == 0, torch.inf, self._scale)

    def apply(self, x: Tensor) -> Tensor:
        return (x - self._centre.to(x)) / self._divisor.to(x)

    def undo(self, y: Tensor) -> Tensor:
        return y * self._scale.to(y) + self._centre.to(y)


def _centre_and_scale(key: str, stats: Mapping[str, np.ndarray], mode: str) -> tuple[np.ndarray, np.ndarray]:
    def of(name: str) -> np.ndarray:
        if name not in stats:
            raise ValueError(
                f"the statistics of '{key}' have no '{name}', which its normalization '{mode}' needs"
            )
        return np.asarray(stats[name], np.float64)

    if mode == "mean_std":
        mean, std = of("mean"), of("std")
        return mean, np.where(std <= CONSTANT * np.abs(mean) + EPSILON, 0.0, std + EPSILON)
    low, high = of("min"), of("max")
    if mode == "quantile":
        q_low, q_high = of("q01"), of("q99")
        still = _is_constant(q_low, q_high)
        low, high = np.where(still, low, q_low), np.where(still, high, q_high)
    return (low + high) / 2, np.where(_is_constant(low, high), 0.0, (high - low) / 2)


def _is_constant(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return high - low <= CONSTANT * np.maximum(np.abs(low), np.abs(high)) + EPSILON


def _is_image(key: str, stats: Mapping[str, np.ndarray]) -> bool:
    """Camera features are told by their names, or by statistics per channel, of shape (C, 1, 1)."""
    shape = next(iter(stats.values())).shape if "mean" not in stats else stats["mean"].shape
    return key.startswith("observation.image") or (len(shape) == 3 and shape[1:] == (1, 1))
