"""Networks of Diffusion Policy: a conditional 1-D U-Net and a transformer over action chunks.

Chi et al. 2023, "Diffusion Policy: Visuomotor Policy Learning via Action Diffusion".
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model_constructor.blocks.encodings import transformer_time_embedding
from model_constructor.blocks.transformer import TransformerDecoder, causal_mask


class ConvNormMish(nn.Sequential):
    """Convolution over time that keeps the length, GroupNorm, Mish: `(B, C, S)` → `(B, C', S)`."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int, n_groups: int) -> None:
        super().__init__(
            nn.Conv1d(inputs, outputs, kernel_size, padding=kernel_size // 2),
            nn.GroupNorm(n_groups, outputs),
            nn.Mish(),
        )


class FiLMResidualBlock1D(nn.Module):
    """Two convolutions with a shortcut; the condition scales and shifts every channel between them.

    FiLM (Perez et al. 2018): `scale(c) · x + shift(c)`, or only the shift.
    """

    def __init__(
        self, inputs: int, outputs: int, condition_dim: int, kernel_size: int, n_groups: int, film_scale: bool
    ) -> None:
        super().__init__()
        self.film_scale = film_scale
        self.first = ConvNormMish(inputs, outputs, kernel_size, n_groups)
        self.second = ConvNormMish(outputs, outputs, kernel_size, n_groups)
        self.film = nn.Sequential(
            nn.Mish(),
            nn.Linear(condition_dim, 2 * outputs if film_scale else outputs),
            nn.Unflatten(-1, (-1, 1)),
        )
        self.shortcut = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """`(B, inputs, S)` and `(B, condition_dim)` → `(B, outputs, S)`."""
        hidden = self.first(x)
        modulation = self.film(condition)
        if self.film_scale:
            scale, shift = modulation.chunk(2, dim=1)
            hidden = torch.addcmul(shift, scale, hidden)
        else:
            hidden = hidden + modulation
        return self.second(hidden) + self.shortcut(x)


class FiLMPair(nn.Module):
    """Two residual blocks, of which the first changes the channels."""

    def __init__(
        self, inputs: int, outputs: int, condition_dim: int, kernel_size: int, n_groups: int, film_scale: bool
    ) -> None:
        super().__init__()
        sizes = (condition_dim, kernel_size, n_groups, film_scale)
        self.first = FiLMResidualBlock1D(inputs, outputs, *sizes)
        self.second = FiLMResidualBlock1D(outputs, outputs, *sizes)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """`(B, inputs, S)` and `(B, condition_dim)` → `(B, outputs, S)`."""
        return self.second(self.first(x, condition), condition)


class ConditionalUNet1D(nn.Module):
    """Noise in an action chunk, by a U-Net over time with FiLM: the usual network of Diffusion Policy.

    The condition is the embedded diffusion step beside what an encoder made of the observations. All levels
    but the deepest halve the time; on the way up a level sees what the way down left there, apart from the
    outermost one, which as published has no such connection.

    The condition goes through Mish first, as published, which has its minimum at −1.19: of numbers on both
    sides of it the network cannot tell which one it sees. So raw observations in a condition must lie in
    [−1, 1] (`normalization: min_max`), or go through a layer of the encoder before.

    Args:
        action_dim: size A of one action.
        condition_dim: size C of the condition.
        down_dims: channels of each level, outermost first; multiples of `n_groups`.
        kernel_size: of the convolutions over time, odd.
        n_groups: groups of the GroupNorms.
        time_dim: size of the embedding of the diffusion step, even.
        film_scale: the condition scales channels beside shifting them.

    Shapes:
        `timestep (B,)` from 0, `sample (B, S, A)`, `condition (B, C)` → `(B, S, A)`.

    Raises:
        ValueError: for sizes that cannot be used; in the call for a chunk whose length S is no multiple of 2
            to the number of halvings.
    """

    def __init__(
        self,
        *,
        action_dim: int,
        condition_dim: int,
        down_dims: Sequence[int] = (256, 512, 1024),
        kernel_size: int = 5,
        n_groups: int = 8,
        time_dim: int = 256,
        film_scale: bool = True,
    ) -> None:
        super().__init__()
        if not down_dims or any(width < 1 or width % n_groups for width in down_dims):
            raise ValueError(
                f"'down_dims' must be multiples of 'n_groups' ({n_groups}), got {list(down_dims)}"
            )
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"'kernel_size' must be odd, got {kernel_size}")
        if time_dim < 4 or time_dim % 2:
            raise ValueError(f"'time_dim' must be even and at least 4, got {time_dim}")
        self.time_dim = time_dim
        self.time_mlp = nn.Sequential(
            nn.Linear(time_dim, 4 * time_dim), nn.Mish(), nn.Linear(4 * time_dim, time_dim)
        )

        def pair(inputs: int, outputs: int) -> FiLMPair:
            return FiLMPair(inputs, outputs, time_dim + condition_dim, kernel_size, n_groups, film_scale)

        widths = list(down_dims)
        self.down = nn.ModuleList(
            pair(inputs, outputs) for inputs, outputs in zip([action_dim, *widths], widths, strict=False)
        )
        self.downsample = nn.ModuleList(
            nn.Conv1d(width, width, 3, stride=2, padding=1) for width in widths[:-1]
        )
        self.middle = pair(widths[-1], widths[-1])
        ups = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(pair(2 * inputs, outputs) for inputs, outputs in ups)
        self.upsample = nn.ModuleList(
            nn.ConvTranspose1d(outputs, outputs, 4, stride=2, padding=1) for _, outputs in ups
        )
        self.output = nn.Sequential(
            ConvNormMish(widths[0], widths[0], kernel_size, n_groups), nn.Conv1d(widths[0], action_dim, 1)
        )

    def forward(self, timestep: Tensor, sample: Tensor, condition: Tensor) -> Tensor:
        """Return what is predicted of the noisy chunk `sample`, `(B, S, A)`."""
        factor = 2 ** len(self.downsample)
        if sample.shape[1] % factor:
            raise ValueError(
                f"a U-Net of {len(self.down)} levels takes chunks of a multiple of {factor} actions, "
                f"it was given {sample.shape[1]}"
            )
        embedding = transformer_time_embedding(timestep.reshape(-1), self.time_dim).to(sample.dtype)
        seen = torch.cat([self.time_mlp(embedding), condition], dim=-1)
        x = sample.transpose(1, 2)
        kept = []
        for level, pair in enumerate(self.down):
            x = pair(x, seen)
            kept.append(x)
            if level < len(self.downsample):
                x = self.downsample[level](x)
        x = self.middle(x, seen)
        for pair, upsample in zip(self.up, self.upsample, strict=True):
            x = upsample(pair(torch.cat([x, kept.pop()], dim=1), seen))
        return self.output(x).transpose(1, 2)


class DiffusionTransformer(nn.Module):
    """Noise in an action chunk, by a transformer decoder that reads the diffusion step and the observations.

    The transformer variant of Diffusion Policy: pre-norm layers, learned positions, GELU.

    Args:
        action_dim: size A of one action.
        action_horizon: number S of actions in a chunk.
        condition_dim: size C of what an encoder made of one observation.
        condition_steps: number T of observations, oldest first.
        width: size of a token.
        num_heads: attention heads.
        num_layers: layers of the decoder.
        num_condition_layers: layers of the encoder over step and observations; 0 has an MLP instead.
        dropout: of the embeddings.
        attention_dropout: within the layers.
        causal: an action sees itself and earlier ones, and observations up to its own time; the chunk then
            begins at the oldest observation.

    Shapes:
        `timestep (B,)` from 0, `sample (B, S, A)`, `condition (B, T, C)` → `(B, S, A)`.

    Raises:
        ValueError: for sizes that cannot be used, or a causal chunk that ends before the last observation.
    """

    memory_mask: Tensor | None

    def __init__(
        self,
        *,
        action_dim: int,
        action_horizon: int,
        condition_dim: int,
        condition_steps: int,
        width: int = 256,
        num_heads: int = 4,
        num_layers: int = 8,
        num_condition_layers: int = 0,
        dropout: float = 0.0,
        attention_dropout: float = 0.3,
        causal: bool = True,
    ) -> None:
        super().__init__()
        if causal and action_horizon < condition_steps:
            raise ValueError(
                f"with 'causal: true' a chunk of {action_horizon} actions ends before the last of "
                f"{condition_steps} observations"
            )
        self.width = width
        self.input_layer = nn.Linear(action_dim, width)
        self.condition_layer = nn.Linear(condition_dim, width)
        self.positions = nn.Parameter(_small(action_horizon, width))
        self.condition_positions = nn.Parameter(_small(1 + condition_steps, width))
        self.dropout = nn.Dropout(dropout)
        self.encoder: nn.Module
        if num_condition_layers:
            layer = nn.TransformerEncoderLayer(
                width, num_heads, 4 * width, attention_dropout, "gelu", batch_first=True, norm_first=True
            )
            self.encoder = nn.TransformerEncoder(layer, num_condition_layers, enable_nested_tensor=False)
        else:
            self.encoder = nn.Sequential(nn.Linear(width, 4 * width), nn.Mish(), nn.Linear(4 * width, width))
        self.decoder = TransformerDecoder(
            d_model=width,
            nhead=num_heads,
            dim_feedforward=4 * width,
            dropout=attention_dropout,
            activation="gelu",
            batch_first=True,
            tgt_is_causal=causal,
            num_layers=num_layers,
            num_tokens=action_horizon,
            norm_first=True,
            save_mask=False,
        )
        self.output_layer = nn.Linear(width, action_dim)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.MultiheadAttention)):
                _start_small(module)
        # Token 0 of the memory is the diffusion step, which every action sees.
        later = causal_mask(action_horizon)[:, :condition_steps]
        mask = torch.cat([torch.zeros(action_horizon, 1), later], dim=1) if causal else None
        self.register_buffer("memory_mask", mask, persistent=False)

    def forward(self, timestep: Tensor, sample: Tensor, condition: Tensor) -> Tensor:
        """Return what is predicted of the noisy chunk `sample`, `(B, S, A)`."""
        step = transformer_time_embedding(timestep.reshape(-1), self.width).to(sample.dtype)[:, None]
        memory = torch.cat([step, self.condition_layer(condition)], dim=1)
        memory = self.encoder(self.dropout(memory + self.condition_positions))
        target = self.dropout(self.input_layer(sample) + self.positions)
        return self.output_layer(self.decoder(target, memory, self.memory_mask))


def _small(*shape: int) -> Tensor:
    return nn.init.normal_(torch.empty(*shape), std=0.02)


def _start_small(module: nn.Linear | nn.MultiheadAttention) -> None:
    """Draw weights from N(0, 0.02²), as published, with biases of zero."""
    for name, parameter in module.named_parameters(recurse=False):
        if name.endswith("weight"):
            nn.init.normal_(parameter, std=0.02)
        else:
            nn.init.zeros_(parameter)
