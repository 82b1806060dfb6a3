"""From pictures to a few numbers: a ResNet with GroupNorm, random crops, and where things are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model_constructor.blocks.vision.image import VALUE_RANGES, check_choice, to_unit_range
from model_constructor.random import uniform

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
CHANNELS_PER_GROUP = 16


class RandomCrop(nn.Module):
    """Cut a part out of every picture: anywhere in training, in the middle otherwise.

    Args:
        height: of the part.
        width: of the part.

    Shapes:
        `(N, C, H, W)` → `(N, C, height, width)`.

    Raises:
        ValueError: for sizes below 1; in the call for pictures smaller than the part.
    """

    def __init__(self, *, height: int, width: int) -> None:
        super().__init__()
        if min(height, width) < 1:
            raise ValueError(f"'height' and 'width' must be at least 1, got {height} and {width}")
        self.size = (height, width)

    def forward(self, image: Tensor) -> Tensor:
        """`(N, C, H, W)` → `(N, C, height, width)`."""
        (height, width), (full_height, full_width) = self.size, image.shape[-2:]
        down, right = full_height - height, full_width - width
        if down < 0 or right < 0:
            raise ValueError(
                f"a picture of {full_height} × {full_width} pixels is smaller than the crop of "
                f"{height} × {width}"
            )
        if not self.training:
            return image[..., down // 2 : down // 2 + height, right // 2 : right // 2 + width]
        # The largest number below 1, times the number of places, may be rounded up.
        drawn = uniform((len(image), 2), image.device)
        top, left = (
            (drawn[:, i] * (most + 1)).long().clamp_(max=most)[:, None]
            for i, most in enumerate((down, right))
        )
        rows = (top + torch.arange(height, device=image.device))[:, None, :, None]
        columns = (left + torch.arange(width, device=image.device))[:, None, None, :]
        picture = torch.arange(len(image), device=image.device)[:, None, None, None]
        channel = torch.arange(image.shape[1], device=image.device)[None, :, None, None]
        return image[picture, channel, rows, columns]


class BasicBlock(nn.Module):
    """The residual block of ResNet-18 and 34, with GroupNorm: `(B, C, H, W)` → `(B, C', H', W')`."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = _group_norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = _group_norm(outputs)
        self.act = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), _group_norm(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Two convolutions beside a shortcut."""
        hidden = self.act(self.norm1(self.conv1(x)))
        return self.act(self.norm2(self.conv2(hidden)) + self.shortcut(x))


class GroupNormResNet(nn.Module):
    """The convolutions of ResNet-18 or 34 with GroupNorm for BatchNorm, to be trained from scratch.

    GroupNorm (Wu & He 2018) has no statistics of batches, which an average of weights would not fit; a group
    is of 16 channels, as in Diffusion Policy. The network is that of He et al. 2016.

    Args:
        depth: 18 or 34.
        value_range: `auto` (integers are 0 to 255, floats 0 to 1), `unit` or `byte`.
        width: channels of the first stage, 64 as published; a multiple of 16.

    Shapes:
        `(B, 3, H, W)` → `(B, 8 · width, ⌈H/32⌉, ⌈W/32⌉)`.

    Raises:
        ValueError: for another depth or width.
    """

    def __init__(self, *, depth: int = 18, value_range: str = "auto", width: int = 64) -> None:
        super().__init__()
        if depth not in DEPTHS:
            raise ValueError(f"'depth' must be one of {', '.join(map(str, DEPTHS))}, got {depth}")
        if width < CHANNELS_PER_GROUP or width % CHANNELS_PER_GROUP:
            raise ValueError(f"'width' must be a multiple of {CHANNELS_PER_GROUP}, got {width}")
        check_choice("value_range", value_range, VALUE_RANGES)
        self.value_range = value_range
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False),
            _group_norm(width),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        stages, inputs = [], width
        for stage, count in enumerate(DEPTHS[depth]):
            outputs = width * 2**stage
            strides = [1 if stage == 0 else 2] + [1] * (count - 1)
            stages.append(
                nn.Sequential(
                    *(
                        BasicBlock(inputs if i == 0 else outputs, outputs, stride)
                        for i, stride in enumerate(strides)
                    )
                )
            )
            inputs = outputs
        self.stages = nn.Sequential(*stages)

    def forward(self, image: Tensor) -> Tensor:
        """`(B, 3, H, W)` → `(B, C, h, w)`."""
        # Floats from 0 to 1 become −1 to 1.
        return self.stages(self.stem(2.0 * to_unit_range(image, self.value_range) - 1.0))


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels // CHANNELS_PER_GROUP, channels)


class SpatialSoftmax(nn.Module):
    """Where in the picture each of K learned features is: the expected place under a softmax.

    Finn et al. 2016, "Deep Spatial Autoencoders for Visuomotor Learning". Places are x (rightwards) and y
    (downwards) in [−1, 1].

    Args:
        channels: C.
        num_keypoints: K; a 1 × 1 convolution makes them of the channels.

    Shapes:
        `(B, C, h, w)` → `(B, 2K)` holding x0, y0, x1, y1, …

    Raises:
        ValueError: for sizes below 1.
    """

    def __init__(self, *, channels: int, num_keypoints: int = 32) -> None:
        super().__init__()
        if min(channels, num_keypoints) < 1:
            raise ValueError(
                f"'channels' and 'num_keypoints' must be at least 1, got {channels} and {num_keypoints}"
            )
        self.projection = nn.Conv2d(channels, num_keypoints, 1)

    def forward(self, features: Tensor) -> Tensor:
        """`(B, C, h, w)` → `(B, 2K)`."""
        maps = self.projection(features)
        height, width = maps.shape[-2:]
        # Places are told apart in float32 whatever autocast gives.
        share = maps.float().flatten(2).softmax(dim=-1).unflatten(-1, (height, width))
        x = torch.linspace(-1.0, 1.0, width, device=maps.device)
        y = torch.linspace(-1.0, 1.0, height, device=maps.device)
        places = torch.stack([(share.sum(dim=2) * x).sum(-1), (share.sum(dim=3) * y).sum(-1)], dim=-1)
        return places.flatten(1).to(maps.dtype)


class OverFrames(nn.Module):
    """Run a module on every frame of a history as if each were a sample of its own.

    Args:
        module: what takes `(N, …)` and returns `(N, …)`.

    Shapes:
        `(B, T, …)` → `(B, T, …)`.
    """

    def __init__(self, *, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, frames: Tensor) -> Tensor:
        """`(B, T, …)` → `(B, T, …)`."""
        return self.module(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
