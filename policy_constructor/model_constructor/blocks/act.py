"""The networks of ACT: a style encoder over actions, and a transformer from observations to an action chunk.

Zhao et al. 2023, "Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware". The layers are those
of DETR (Carion et al. 2020): positions are added to queries and keys of every attention, never to values.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model_constructor.blocks.encodings import sinusoidal_positions, sinusoidal_positions_2d


class FeedForward(nn.Sequential):
    """Linear → ReLU → Dropout → Linear."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, width))


class PositionedEncoderLayer(nn.Module):
    """A post-norm encoder layer whose queries and keys carry positions."""

    def __init__(self, width: int, num_heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, num_heads, dropout, batch_first=True)
        self.feed_forward = FeedForward(width, hidden, dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, positions: Tensor, is_pad: Tensor | None = None) -> Tensor:
        """Return `(B, L, D)`; tokens with `is_pad (B, L)` are not read, positions are `(1, L, D)`."""
        placed = x + positions
        read, _ = self.attention(placed, placed, x, key_padding_mask=is_pad, need_weights=False)
        x = self.norms[0](x + self.dropout(read))
        return self.norms[1](x + self.dropout(self.feed_forward(x)))


class PositionedDecoderLayer(nn.Module):
    """A post-norm decoder layer whose queries and keys carry positions."""

    def __init__(self, width: int, num_heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = nn.MultiheadAttention(width, num_heads, dropout, batch_first=True)
        self.cross_attention = nn.MultiheadAttention(width, num_heads, dropout, batch_first=True)
        self.feed_forward = FeedForward(width, hidden, dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, queries: Tensor, memory: Tensor, positions: Tensor) -> Tensor:
        """`(B, S, D)` with its `queries (1, S, D)`, memory `(B, L, D)` with its positions → `(B, S, D)`."""
        placed = x + queries
        read, _ = self.self_attention(placed, placed, x, need_weights=False)
        x = self.norms[0](x + self.dropout(read))
        read, _ = self.cross_attention(x + queries, memory + positions, memory, need_weights=False)
        x = self.norms[1](x + self.dropout(read))
        return self.norms[2](x + self.dropout(self.feed_forward(x)))


class ACTStyleEncoder(nn.Module):
    """The posterior of ACT's latent: a CLS token reads the joint state and the action chunk.

    Args:
        action_dim: size A of an action.
        state_dim: size P of the state.
        latent_dim: size Z of the latent.
        width: size of a token.
        num_heads: attention heads.
        dim_feedforward: hidden size of the feed-forward part.
        num_layers: number of layers.
        dropout: everywhere in the layers.

    Shapes:
        `state (B, P)`, `action (B, S, A)`, `is_pad (B, S)` → `(B, 2Z)`, mean and logarithm of the variance.

    Raises:
        ValueError: for heads that do not divide the width.
    """

    def __init__(
        self,
        *,
        action_dim: int,
        state_dim: int,
        latent_dim: int = 32,
        width: int = 512,
        num_heads: int = 8,
        dim_feedforward: int = 3200,
        num_layers: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        _check_width(width, num_heads)
        self.cls = nn.Parameter(torch.randn(1, 1, width))
        self.state_projection = nn.Linear(state_dim, width)
        self.action_projection = nn.Linear(action_dim, width)
        self.layers = nn.ModuleList(
            PositionedEncoderLayer(width, num_heads, dim_feedforward, dropout) for _ in range(num_layers)
        )
        self.output_layer = nn.Linear(width, 2 * latent_dim)
        _start_uniform(self.layers)

    def forward(self, state: Tensor, action: Tensor, is_pad: Tensor) -> Tensor:
        """Return mean and log-variance side by side, `(B, 2Z)`."""
        cls = self.cls.expand(len(state), -1, -1)
        x = torch.cat([cls, self.state_projection(state)[:, None], self.action_projection(action)], dim=1)
        positions = sinusoidal_positions(x.shape[1], x.shape[2], like=x)
        own = torch.zeros(len(state), 2, dtype=torch.bool, device=is_pad.device)
        unread = torch.cat([own, is_pad.to(torch.bool)], dim=1)
        for layer in self.layers:
            x = layer(x, positions, unread)
        return self.output_layer(x[:, 0])


class ACTTransformer(nn.Module):
    """An action chunk from a latent, vectors and feature maps: the transformer of ACT.

    The encoder reads a token for the latent, one for each vector and one for each place of each map; learned
    queries, one for each action, read what it makes of them.

    Args:
        action_dim: size A of an action.
        action_horizon: number S of actions in a chunk.
        vector_dims: size of each vector, such as the joint state.
        feature_channels: channels C of the feature maps; null without cameras.
        latent_dim: size Z of the latent.
        width: size D of a token, a multiple of 4.
        num_heads: attention heads.
        dim_feedforward: hidden size of the feed-forward part.
        num_encoder_layers: layers of the encoder.
        num_decoder_layers: layers of the decoder; the published code has seven, of which it uses the first.
        dropout: everywhere in the layers.

    Shapes:
        `latent (B, Z)`, `vectors` a list of `(B, P_i)`, `features` a list of `(B, C, h, w)` or None →
        `(B, S, A)`.

    Raises:
        ValueError: for sizes that do not fit each other; in the call for another number of vectors, or
            feature maps that are missing or not expected.
    """

    def __init__(
        self,
        *,
        action_dim: int,
        action_horizon: int,
        vector_dims: Sequence[int],
        feature_channels: int | None = None,
        latent_dim: int = 32,
        width: int = 512,
        num_heads: int = 8,
        dim_feedforward: int = 3200,
        num_encoder_layers: int = 4,
        num_decoder_layers: int = 1,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        _check_width(width, num_heads)
        self.latent_projection = nn.Linear(latent_dim, width)
        self.vector_projections = nn.ModuleList(nn.Linear(size, width) for size in vector_dims)
        self.feature_projection = None if feature_channels is None else nn.Conv2d(feature_channels, width, 1)
        self.positions = nn.Parameter(torch.randn(1, 1 + len(vector_dims), width))
        sizes = (width, num_heads, dim_feedforward, dropout)
        self.encoder = nn.ModuleList(PositionedEncoderLayer(*sizes) for _ in range(num_encoder_layers))
        self.decoder = nn.ModuleList(PositionedDecoderLayer(*sizes) for _ in range(num_decoder_layers))
        self.queries = nn.Parameter(torch.randn(1, action_horizon, width))
        self.output_norm = nn.LayerNorm(width)
        self.output_layer = nn.Linear(width, action_dim)
        _start_uniform(self.encoder)
        _start_uniform(self.decoder)

    def forward(
        self, latent: Tensor, vectors: Sequence[Tensor], features: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Return the action chunk `(B, S, A)`."""
        if len(vectors) != len(self.vector_projections):
            raise ValueError(
                f"'vector_dims' names {len(self.vector_projections)} vectors, but {len(vectors)} were given"
            )
        if (features is None) != (self.feature_projection is None):
            has = "is null, but feature maps were given" if features else "is given, but no feature map was"
            raise ValueError(f"'feature_channels' {has}")
        tokens = [self.latent_projection(latent)[:, None]]
        tokens += [
            layer(vector)[:, None] for layer, vector in zip(self.vector_projections, vectors, strict=True)
        ]
        positions = [self.positions.to(tokens[0].dtype)]
        for given in features or ():
            assert self.feature_projection is not None
            projected = self.feature_projection(given)
            tokens.append(projected.flatten(2).transpose(1, 2))
            channels, rows, columns = projected.shape[1:]
            positions.append(sinusoidal_positions_2d(rows, columns, channels, like=projected))
        memory, places = torch.cat(tokens, dim=1), torch.cat(positions, dim=1)
        for layer in self.encoder:
            memory = layer(memory, places)
        queries = self.queries.to(memory.dtype)
        x = torch.zeros_like(queries).expand(len(latent), -1, -1)
        for layer in self.decoder:
            x = layer(x, queries, memory, places)
        return self.output_layer(self.output_norm(x))


def _check_width(width: int, num_heads: int) -> None:
    if width % 4:
        raise ValueError(f"'width' must be a multiple of 4, as positions in a picture need, got {width}")
    if num_heads < 1 or width % num_heads:
        raise ValueError(f"'width' ({width}) must be a multiple of 'num_heads' ({num_heads})")


def _start_uniform(layers: nn.Module) -> None:
    """Draw every matrix as Glorot & Bengio 2010, as published."""
    for parameter in layers.parameters():
        if parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter)
