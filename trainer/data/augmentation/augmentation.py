"""What `data.augmentation` asks for, applied to a batch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from model_constructor import did_you_mean
from torch import Tensor

from trainer.config.augmentation import AugmentationConfig, ColorJitterConfig
from trainer.data.augmentation import transforms
from trainer.data.images import is_camera, is_image, scale_images
from trainer.data.normalization import PROPRIO, STATE, join_proprio
from trainer.utils.random import SampleRandom

OBSERVATIONS = "observation."

# The draws of a camera, in this order; all are made, so that switching one off leaves the others as they are.
_AMOUNTS = ("down", "right", "brightness", "contrast", "saturation", "hue", "sigma")


class Augmentation:
    """Changes training batches at random; whoever evaluates has no such object and never sees them changed.

    Every sample has its own draw, shared by all frames of its history. Pictures are shifted, then jittered,
    then blurred; of the jitter's four parts a batch draws the order anew for every camera, as torchvision's
    ColorJitter does for every picture. Noise on an observation is drawn for every number of it.

    All draws come from the `SampleRandom` of the call: they depend on seed, step and the sample's row in the
    global batch, and neither on ranks and workers nor on what else was drawn. Nothing waits for the device.

    Args:
        config: what to do, and how strongly.
        cameras: the features that are pictures; None if the dataset does not tell, and names decide.
        measured: the observations that are numbers; None if the dataset does not tell.
    """

    def __init__(
        self,
        config: AugmentationConfig,
        cameras: Collection[str] | None = None,
        measured: Collection[str] | None = None,
    ) -> None:
        self._config = config
        self._cameras = cameras
        self._measured = measured

    @torch.no_grad()
    def __call__(self, batch: Mapping[str, Any], random: SampleRandom) -> dict[str, Any]:
        """Return the batch with its observations changed; the given one stays as it is.

        Args:
            batch: normalized, on the device of `random`. Pictures are `(B, …, C, H, W)`, uint8 or floats in
                [0, 1]; uint8 comes out as float32 in [0, 1]. Only pictures of three channels are jittered
                and blurred: a depth is no colour.
            random: the draws of this step.

        Raises:
            ValueError: a picture is too small for the blur.
        """
        result = dict(batch)
        cameras = [key for key, value in batch.items() if is_image(key, value, self._cameras)]
        shared = None
        if cameras and self._config.cameras == "together":
            shared = _Draw(random, len(batch[cameras[0]]))
        for key in cameras:
            result[key] = self._picture(batch[key], shared or _Draw(random, len(batch[key])))
        self._add_noise(result, random)
        return result

    def without_effect(self, features: Collection[str]) -> list[tuple[str, str]]:
        """Return what would do nothing: the setting, as a dotted path, and a sentence without its full stop.

        Args:
            features: names of the features of a batch.
        """
        config = self._config
        found: list[tuple[str, str]] = []
        cameras = [name for name in features if is_camera(name, self._cameras)]
        low_dimensional = [name for name in features if self._is_low_dimensional(name)]
        if not cameras:
            for name in ("color_jitter", "gaussian_blur", "random_shift"):
                if name in config.model_fields_set and getattr(config, name) is not None:
                    found.append((name, "the dataset gives no camera, so this would have no effect"))
        for name, std in _stds(config).items():
            if name not in low_dimensional:
                hint = did_you_mean(name, low_dimensional)
                found.append((f"observation_noise.{name}", f"there is no such observation; {hint}"))
            elif std == 0:
                found.append((f"observation_noise.{name}", "a standard deviation of 0 has no effect"))
        on_images = config.color_jitter or config.gaussian_blur or config.random_shift
        if not found and not (cameras and on_images) and not config.observation_noise:
            found.append(("", "nothing in here has an effect on this dataset"))
        return found

    def _is_low_dimensional(self, key: str) -> bool:
        if self._measured is not None:
            return key in self._measured
        is_measured = key.startswith(OBSERVATIONS) and not key.endswith("_is_pad")
        return is_measured and not is_camera(key, self._cameras)

    def _picture(self, value: Tensor, draw: _Draw) -> Tensor:
        config = self._config
        x = value.reshape(len(value), -1, *value.shape[-3:])
        if config.random_shift is not None:
            x = transforms.shift(x, *draw.shifts(config.random_shift.pixels))
        x = scale_images({"x": x}, ["x"])["x"]
        if x.shape[2] == 3 and x.is_floating_point():
            if config.color_jitter is not None:
                x = _jitter(x, draw, config.color_jitter)
            if config.gaussian_blur is not None:
                sigma = draw.between("sigma", *config.gaussian_blur.sigma)
                x = transforms.blur(x, sigma, config.gaussian_blur.kernel_size)
        return x.view(value.shape)

    def _add_noise(self, batch: dict[str, Any], random: SampleRandom) -> None:
        """Add noise to what was measured; state and current are joined again afterwards."""
        std = self._config.observation_noise
        if not std:
            return
        joined = PROPRIO in batch
        for key in [key for key in batch if self._is_low_dimensional(key) and key != PROPRIO]:
            amount = std.get(key, 0.0) if isinstance(std, dict) else std
            # What is called the state may hold the currents too; its own copy does not.
            value = batch[PROPRIO] if joined and key == STATE else batch[key]
            if isinstance(value, Tensor) and value.is_floating_point():
                if amount:
                    noise = random.normal(tuple(value.shape)).to(value.dtype).mul_(amount)
                    value = value + _on_own_dimensions(noise, batch.get(f"{key}_dim_is_pad"))
                batch[key] = value
        if joined:
            join_proprio(batch)


class _Draw:
    """The random numbers of one camera, or of all of them: `(B,)` for each amount, on the device."""

    def __init__(self, random: SampleRandom, batch: int) -> None:
        drawn = random.uniform((batch, len(_AMOUNTS)))
        self._uniform = dict(zip(_AMOUNTS, drawn.unbind(dim=1), strict=True))
        self.order: Sequence[int] = random.permutation(4)

    def between(self, name: str, low: float, high: float) -> Tensor:
        return low + (high - low) * self._uniform[name]

    def factor(self, name: str, strength: float) -> Tensor:
        return self.between(name, max(0.0, 1.0 - strength), 1.0 + strength)

    def shifts(self, pixels: int) -> tuple[Tensor, Tensor]:
        """Return whole numbers from −`pixels` to `pixels`."""
        steps = 2 * pixels + 1
        # The largest number below 1, times the number of steps, may be rounded up.
        down, right = (
            (self._uniform[name] * steps).long().clamp_(max=steps - 1) - pixels for name in ("down", "right")
        )
        return down, right


def _jitter(x: Tensor, draw: _Draw, config: ColorJitterConfig) -> Tensor:
    for part in draw.order:
        if part == 0 and config.brightness:
            x = transforms.scale_brightness(x, draw.factor("brightness", config.brightness))
        elif part == 1 and config.contrast:
            x = transforms.scale_contrast(x, draw.factor("contrast", config.contrast))
        elif part == 2 and config.saturation:
            x = transforms.scale_saturation(x, draw.factor("saturation", config.saturation))
        elif part == 3 and config.hue:
            x = transforms.shift_hue(x, draw.between("hue", -config.hue, config.hue))
    return x


def _on_own_dimensions(noise: Tensor, dim_is_pad: Tensor | None) -> Tensor:
    """Return the noise `(B, …, D)` without that on dimensions `(B, D)` which a sample has not got."""
    if dim_is_pad is None:
        return noise
    middle = (1,) * (noise.ndim - 2)
    return noise.masked_fill_(dim_is_pad.view(len(noise), *middle, -1), 0.0)


def _stds(config: AugmentationConfig) -> Mapping[str, float]:
    return config.observation_noise if isinstance(config.observation_noise, dict) else {}
