"""A plain vision transformer, the stand-in with random weights for the big pretrained ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class VisionTransformer(nn.Module):
    """Pre-norm ViT (Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words") with summary tokens in front.

    Args:
        width: channels C.
        num_layers: blocks.
        num_heads: attention heads.
        patch_size: side of a patch in pixels.
        num_summary_tokens: learned tokens in front of the patches.
        grid_size: side of the grid that position embeddings are learned on; they are resized to others.

    Shapes:
        `(B, 3, H, W)` with sides in multiples of the patch → see `forward`.
    """

    def __init__(
        self,
        *,
        width: int,
        num_layers: int,
        num_heads: int,
        patch_size: int,
        num_summary_tokens: int,
        grid_size: int = 16,
    ) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"the width ({width}) must be a multiple of the number of heads ({num_heads})")
        self.num_summary_tokens = num_summary_tokens
        self.patch_embedding = nn.Conv2d(3, width, patch_size, stride=patch_size)
        self.summary_tokens = nn.Parameter(
            nn.init.trunc_normal_(torch.empty(num_summary_tokens, width), std=0.02)
        )
        self.position_embedding = nn.Parameter(
            nn.init.trunc_normal_(torch.empty(1, width, grid_size, grid_size), std=0.02)
        )
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, num_heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(width)

    def layer_tokens(self, image: Tensor, layers: list[int]) -> tuple[dict[int, Tensor], int, int]:
        """Return the outputs of these blocks `(B, summary + h·w, C)`, and h and w.

        Blocks are counted from 0; those behind the last one asked for are not computed.
        """
        patches = self.patch_embedding(image)
        height, width = patches.shape[-2:]
        positions: Tensor = self.position_embedding
        if positions.shape[-2:] != (height, width):
            positions = F.interpolate(positions, size=(height, width), mode="bicubic", align_corners=False)
        tokens = (patches + positions).flatten(2).transpose(1, 2)
        summary = self.summary_tokens.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
        tokens = torch.cat([summary, tokens], dim=1)
        outputs = {}
        for index, block in enumerate(self.blocks[: max(layers) + 1]):
            tokens = block(tokens)
            if index in layers:
                outputs[index] = tokens
        return outputs, height, width

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return features `(B, C, h, w)` and the summary tokens side by side `(B, summary · C)`."""
        last = len(self.blocks) - 1
        outputs, height, width = self.layer_tokens(image, [last])
        tokens = self.norm(outputs[last])
        summary, patches = tokens.tensor_split((self.num_summary_tokens,), dim=1)
        return patches.transpose(1, 2).unflatten(2, (height, width)), summary.flatten(1)
