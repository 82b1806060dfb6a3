"""ResNet-34 and what small cameras need of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model_constructor.blocks.basic import ConvBNAct, ResidualBlock
from model_constructor.blocks.vision.image import VALUE_RANGES, as_batch, check_choice, resize, to_unit_range

STRIDE = 32
BLOCKS = (3, 4, 6, 3)


class ResNet34Trunk(nn.Module):
    """The convolutions of ResNet-34 (He et al. 2016, "Deep Residual Learning for Image Recognition").

    Args:
        out_channels: channels of the last stage, 512 in the paper; the stages before have an eighth, a
            quarter and a half of it.

    Shapes:
        `(B, 3, H, W)` → `(B, out_channels, ⌈H/32⌉, ⌈W/32⌉)`.

    Raises:
        ValueError: when `out_channels` is no multiple of 8.
    """

    def __init__(self, *, out_channels: int = 512) -> None:
        super().__init__()
        if out_channels < 8 or out_channels % 8:
            raise ValueError(f"a ResNet-34 needs a multiple of 8 channels, got {out_channels}")
        widths = [out_channels // part for part in (8, 4, 2, 1)]
        self.stem = ConvBNAct(
            in_channels=3,
            out_channels=widths[0],
            kernel_size=7,
            stride=2,
            padding=3,
            bias=False,
            act=nn.ReLU(),
        )
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        stages = []
        channels = widths[0]
        for stage, (width, count) in enumerate(zip(widths, BLOCKS, strict=True)):
            blocks = []
            for index in range(count):
                stride = 2 if stage and not index else 1
                blocks.append(ResidualBlock(in_channels=channels, out_channels=width, stride=stride))
                channels = width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)

    def forward(self, image: Tensor) -> Tensor:
        """`(B, 3, H, W)` → `(B, out_channels, ⌈H/32⌉, ⌈W/32⌉)`."""
        return self.stages(self.pool(self.stem(image)))


class HandExtractor(nn.Module):
    """Tokens of a wrist camera: a ResNet-34 trained from scratch, with learned positions.

    Args:
        img_h: height of the image that the network sees.
        img_w: its width.
        img_resize: resize images to that size; otherwise they must have it.
        self_extracted_dim: channels of the trunk.
        output_dim: size D of a token.
        value_range: `auto` (integers are 0 to 255, floats 0 to 1), `unit` or `byte`.

    Shapes:
        `(B, 3, H, W)` → `(B, ⌈img_h/32⌉ · ⌈img_w/32⌉, D)`.

    Raises:
        ValueError: for sizes below 1; in the call for an image of another size that may not be resized.
    """

    def __init__(
        self,
        *,
        img_h: int,
        img_w: int,
        img_resize: bool,
        self_extracted_dim: int,
        output_dim: int,
        value_range: str = "auto",
    ) -> None:
        super().__init__()
        if min(img_h, img_w, output_dim) < 1:
            raise ValueError(
                f"'img_h', 'img_w' and 'output_dim' must be at least 1, got {img_h}, {img_w}, {output_dim}"
            )
        check_choice("value_range", value_range, VALUE_RANGES)
        self.size = (img_h, img_w)
        self.img_resize = img_resize
        self.value_range = value_range
        self.trunk = ResNet34Trunk(out_channels=self_extracted_dim)
        self.projection = nn.Linear(self_extracted_dim, output_dim)
        tokens = -(-img_h // STRIDE) * -(-img_w // STRIDE)
        self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(tokens, output_dim), std=0.02))

    def forward(self, img: Tensor) -> Tensor:
        """`(B, 3, H, W)` → `(B, L, D)`."""
        image = to_unit_range(as_batch(img), self.value_range)
        if self.img_resize:
            image = resize(image, *self.size)
        elif tuple(image.shape[-2:]) != self.size:
            raise ValueError(
                f"the image has {tuple(image.shape[-2:])} pixels, the block was made for {self.size}; "
                "set 'img_resize: true' to have it resized"
            )
        tokens = self.trunk(image).flatten(2).transpose(1, 2)
        return self.projection(tokens) + self.positions
