"""The transformer bricks inside the experiment blocks: torch's layers, with the causal masks beside them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def causal_mask(length: int) -> Tensor:
    """Return the additive mask `(length, length)`: 0 up to the diagonal, minus infinity above it."""
    return torch.full((length, length), float("-inf")).triu(1)


def check_heads(d_model: int, nhead: int) -> None:
    """Raise `ValueError` unless the heads divide the width, and the width is even as position codes need."""
    if nhead < 1 or d_model % nhead:
        raise ValueError(
            f"'transformer_d_model' ({d_model}) must be a multiple of 'transformer_nhead' ({nhead})"
        )
    if d_model % 2:
        raise ValueError(f"'transformer_d_model' must be even, got {d_model}")


class TransformerDecoder(nn.Module):
    """torch's transformer decoder, which keeps its causal mask.

    Args:
        d_model: width D.
        nhead: attention heads.
        dim_feedforward: hidden size of the feed-forward part.
        dropout: everywhere in the layers.
        activation: name that torch's layers know (`relu` or `gelu`).
        batch_first: inputs are `(B, S, D)`, else `(S, B, D)`.
        tgt_is_causal: a target sees itself and what comes before it.
        num_layers: number of layers.
        num_tokens: side of the mask; the target length when causal.
        norm_first: pre-norm layers and a norm at the end, instead of post-norm layers.
        save_mask: the mask is part of the state dict.

    Shapes:
        target `(B, S, D)`, memory `(B, L, D)` → `(B, S, D)`.
    """

    tgt_causal_mask: Tensor

    def __init__(
        self,
        *,
        d_model: int,
        nhead: int,
        dim_feedforward: int,
        dropout: float,
        activation: str,
        batch_first: bool,
        tgt_is_causal: bool,
        num_layers: int,
        num_tokens: int,
        norm_first: bool = False,
        save_mask: bool = True,
    ) -> None:
        super().__init__()
        check_heads(d_model, nhead)
        self.tgt_is_causal = tgt_is_causal
        self.num_tokens = num_tokens
        self.length_dim = 1 if batch_first else 0
        layer = nn.TransformerDecoderLayer(
            d_model,
            nhead,
            dim_feedforward,
            dropout,
            activation,
            batch_first=batch_first,
            norm_first=norm_first,
        )
        norm = nn.LayerNorm(d_model) if norm_first else None
        self.decoder = nn.TransformerDecoder(layer, num_layers, norm=norm)
        self.register_buffer("tgt_causal_mask", causal_mask(num_tokens), persistent=save_mask)

    def forward(self, tgt_input: Tensor, memory_input: Tensor, memory_mask: Tensor | None = None) -> Tensor:
        """Return the decoded target; raises `ValueError` for a causal target of another length.

        Args:
            tgt_input: the targets.
            memory_input: what they read.
            memory_mask: additive `(S, L)`, minus infinity where a target does not see the memory.
        """
        if not self.tgt_is_causal:
            return self.decoder(tgt_input, memory_input, memory_mask=memory_mask)
        length = tgt_input.shape[self.length_dim]
        if length != self.num_tokens:
            raise ValueError(
                f"a causal decoder for chunks of {self.num_tokens} was given {length} tokens; "
                "'transformer_action_chunk_size' must be the action horizon"
            )
        return self.decoder(
            tgt_input,
            memory_input,
            tgt_mask=self.tgt_causal_mask,
            memory_mask=memory_mask,
            tgt_is_causal=True,
        )


class NonCausalTransformerEncoder(nn.Module):
    """torch's transformer encoder: `(B, L, D)` → `(B, L, D)`. Arguments as in `TransformerDecoder`."""

    def __init__(
        self,
        *,
        d_model: int,
        nhead: int,
        dim_feedforward: int,
        dropout: float,
        activation: str,
        batch_first: bool,
        num_layers: int,
        norm_first: bool = False,
    ) -> None:
        super().__init__()
        check_heads(d_model, nhead)
        layer = nn.TransformerEncoderLayer(
            d_model,
            nhead,
            dim_feedforward,
            dropout,
            activation,
            batch_first=batch_first,
            norm_first=norm_first,
        )
        norm = nn.LayerNorm(d_model) if norm_first else None
        # Nested tensors serve padded batches only, which no block makes.
        self.encoder = nn.TransformerEncoder(layer, num_layers, norm=norm, enable_nested_tensor=False)

    def forward(self, src: Tensor) -> Tensor:
        """Encode without a mask."""
        return self.encoder(src)


class CausalTransformerEncoder(NonCausalTransformerEncoder):
    """The encoder with a causal mask of `num_tokens`, which is used when `is_causal`; the rest as above."""

    src_causal_mask: Tensor

    def __init__(self, *, is_causal: bool, num_tokens: int, **transformer: Any) -> None:
        super().__init__(**transformer)
        self.is_causal = is_causal
        self.register_buffer("src_causal_mask", causal_mask(num_tokens), persistent=True)

    def forward(self, src: Tensor) -> Tensor:
        """Encode; each token sees itself and those before it."""
        if not self.is_causal:
            return self.encoder(src)
        return self.encoder(src, mask=self.src_causal_mask, is_causal=True)
