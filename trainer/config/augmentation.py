"""The schema of `data.augmentation`: what is done to training batches at random, and how strongly."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, field_validator

from trainer.config.section import Section


class ColorJitterConfig(Section):
    """Colours of a camera: a factor is drawn from 1 ± the value, never below 0; the hue from ± the value."""

    brightness: float = Field(0.2, ge=0, le=10)
    contrast: float = Field(0.2, ge=0, le=10)
    saturation: float = Field(0.2, ge=0, le=10)
    hue: float = Field(0.1, ge=0, le=0.5, description="in turns of the colour circle")


class GaussianBlurConfig(Section):
    """Blur of a camera."""

    kernel_size: int = Field(3, ge=3, le=63, description="pixels, odd")
    sigma: tuple[float, float] = Field((0.1, 2.0), description="least and largest, in pixels")

    @field_validator("kernel_size")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError(f"the kernel of a blur has an odd number of pixels, not {value}")
        return value

    @field_validator("sigma")
    @classmethod
    def _ascending(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] < float("inf"):
            raise ValueError(f"the sigmas of a blur are two ascending numbers above 0, not {list(value)}")
        return value


class RandomShiftConfig(Section):
    """A crop of the padded picture: it moves by up to so many pixels and keeps its size."""

    pixels: int = Field(4, gt=0, description="largest shift in either direction; edges are repeated")


class AugmentationConfig(Section):
    """Random changes of training batches, on the device; evaluation never sees them. `{}` has the defaults.

    Images are shifted, then jittered, then blurred. `null` switches one of them off.
    """

    color_jitter: ColorJitterConfig | None = ColorJitterConfig()
    gaussian_blur: GaussianBlurConfig | None = GaussianBlurConfig()
    random_shift: RandomShiftConfig | None = None
    cameras: Literal["each", "together"] = Field(
        "each", description="whether every camera has its own draw, or all of a sample share one"
    )
    observation_noise: float | dict[str, float] = Field(
        0.0,
        description="standard deviation of the noise on low-dimensional observations, in normalized units: "
        "one for all, or feature → value (0 where not named)",
    )

    @field_validator("observation_noise")
    @classmethod
    def _not_negative(cls, value: float | dict[str, float]) -> float | dict[str, float]:
        for std in value.values() if isinstance(value, dict) else [value]:
            if not 0 <= std < math.inf:
                raise ValueError(f"a standard deviation is a number of at least 0, not {std}")
        return value
