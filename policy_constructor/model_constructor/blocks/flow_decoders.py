"""Transformer velocity fields over action chunks: one expert, a mixture, and the gate that weighs it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_constructor.blocks.encodings import sinusoidal_positions, transformer_time_embedding
from model_constructor.blocks.information_encoder import (
    check_batch_first,
    check_optional_size,
    semantic_tokens,
)
from model_constructor.blocks.layers import ZeroLinear
from model_constructor.blocks.transformer import TransformerDecoder
from model_constructor.random import randn_like


class FlowDecoderInputs(nn.Module):
    """Make queries and memory of a velocity field.

    Queries are projected noise plus a learned position and the time; the memory is `[time, semantic…,
    memory + PE]`. Time is counted in thousandths, so that its embedding moves.
    """

    def __init__(self, *, action_dim: int, chunk_size: int, width: int, semantic_dim: int | None) -> None:
        super().__init__()
        self.width = width
        self.chunk_size = chunk_size
        self.noise_projection = nn.Linear(action_dim, width)
        self.query_positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(chunk_size, width), std=0.02))
        self.semantic_projection = nn.Linear(semantic_dim, width) if semantic_dim is not None else None
        self.time_mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))

    def forward(
        self, time: Tensor, noise: Tensor, memory_input: Tensor, discrete_semantic_input: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return queries `(B, S, D)` and memory `(B, L', D)`."""
        if noise.shape[1] != self.chunk_size:
            raise ValueError(
                f"a decoder for chunks of {self.chunk_size} actions was given {noise.shape[1]}; "
                "'transformer_action_chunk_size' must be the action horizon"
            )
        time_embedding = transformer_time_embedding(1000.0 * time.reshape(-1).float(), self.width)
        time_token = self.time_mlp(time_embedding.to(noise.dtype))[:, None]
        queries = self.noise_projection(noise) + self.query_positions.to(noise.dtype) + time_token
        parts = [time_token]
        if self.semantic_projection is not None:
            if discrete_semantic_input is None:
                raise ValueError("with 'use_cond_semantic: true' the decoder needs discrete_semantic_input")
            parts.append(self.semantic_projection(semantic_tokens(discrete_semantic_input)))
        elif discrete_semantic_input is not None:
            raise ValueError("with 'use_cond_semantic: false' discrete_semantic_input must be null")
        positions = sinusoidal_positions(memory_input.shape[1], self.width, like=memory_input)
        return queries, torch.cat([*parts, memory_input + positions], dim=1)


class FlowActionDecoder(nn.Module):
    """Velocity of an action chunk from a pre-norm transformer decoder.

    The decoder of a transformer Diffusion Policy (Chi et al. 2023, "Diffusion Policy: Visuomotor Policy
    Learning via Action Diffusion") for flow matching (Lipman et al. 2023): time is t in [0, 1], 0 is noise.

    Args:
        action_dim: size A of an action.
        transformer_tgt_is_causal: an action sees itself and those before it.
        transformer_action_chunk_size: chunk length S.
        use_cond_semantic: there is a semantic input, which is projected.
        cond_semantic_dim: its size; null without.

    The other arguments are those of `InformationEncoder`.

    Shapes:
        `time (B,)` or `(B, 1)`, `noise (B, S, A)`, `memory_input (B, L, D)`, `discrete_semantic_input (B,
        F)`, `(B, n, F)` or None → velocity `(B, S, A)`.

    Raises:
        ValueError: for sizes that do not fit each other; in the call for a chunk of another length, or a
            semantic input that is missing or not expected.
    """

    def __init__(
        self,
        *,
        action_dim: int,
        transformer_tgt_is_causal: bool,
        transformer_action_chunk_size: int,
        transformer_d_model: int,
        transformer_nhead: int,
        transformer_dim_feedforward: int,
        transformer_dropout: float,
        transformer_activation: str,
        transformer_batch_first: bool,
        transformer_num_layers: int,
        use_cond_semantic: bool = False,
        cond_semantic_dim: int | None = None,
    ) -> None:
        super().__init__()
        check_batch_first(transformer_batch_first)
        check_optional_size("cond_semantic_dim", cond_semantic_dim, "use_cond_semantic", use_cond_semantic)
        self.inputs = FlowDecoderInputs(
            action_dim=action_dim,
            chunk_size=transformer_action_chunk_size,
            width=transformer_d_model,
            semantic_dim=cond_semantic_dim,
        )
        self.decoder = TransformerDecoder(
            d_model=transformer_d_model,
            nhead=transformer_nhead,
            dim_feedforward=transformer_dim_feedforward,
            dropout=transformer_dropout,
            activation=transformer_activation,
            batch_first=True,
            tgt_is_causal=transformer_tgt_is_causal,
            num_layers=transformer_num_layers,
            num_tokens=transformer_action_chunk_size,
            norm_first=True,
            save_mask=False,
        )
        self.output_layer = nn.Linear(transformer_d_model, action_dim)

    def forward(
        self,
        time: Tensor,
        noise: Tensor,
        memory_input: Tensor,
        discrete_semantic_input: Tensor | None = None,
    ) -> Tensor:
        """Return the velocity `(B, S, A)`."""
        queries, memory = self.inputs(time, noise, memory_input, discrete_semantic_input)
        return self.output_layer(self.decoder(queries, memory))


class MixtureActionDecoder(nn.Module):
    """Velocities of several experts that share queries and memory and nothing else.

    Every expert is computed, for training weighs the error of each by a gate (Zhai et al. 2025, "VFP:
    Variational Flow-Matching Policy for Multi-Modal Robot Manipulation").

    Args:
        num_experts: number E of experts.

    The other arguments are those of `FlowActionDecoder`.

    Shapes:
        `time (B,)` or `(B, 1)`, `noise (B, S, A)`, `memory_input (B, L, D)`, `discrete_semantic_input (B,
        F)`, `(B, n, F)` or None → velocities `(B, E, S, A)`.
    """

    def __init__(
        self,
        *,
        num_experts: int,
        action_dim: int,
        transformer_tgt_is_causal: bool,
        transformer_action_chunk_size: int,
        transformer_d_model: int,
        transformer_nhead: int,
        transformer_dim_feedforward: int,
        transformer_dropout: float,
        transformer_activation: str,
        transformer_batch_first: bool,
        transformer_num_layers: int,
        use_cond_semantic: bool = False,
        cond_semantic_dim: int | None = None,
    ) -> None:
        super().__init__()
        check_batch_first(transformer_batch_first)
        check_optional_size("cond_semantic_dim", cond_semantic_dim, "use_cond_semantic", use_cond_semantic)
        if num_experts < 1:
            raise ValueError(f"'num_experts' must be at least 1, got {num_experts}")
        self.inputs = FlowDecoderInputs(
            action_dim=action_dim,
            chunk_size=transformer_action_chunk_size,
            width=transformer_d_model,
            semantic_dim=cond_semantic_dim,
        )
        self.experts = nn.ModuleList(
            TransformerDecoder(
                d_model=transformer_d_model,
                nhead=transformer_nhead,
                dim_feedforward=transformer_dim_feedforward,
                dropout=transformer_dropout,
                activation=transformer_activation,
                batch_first=True,
                tgt_is_causal=transformer_tgt_is_causal,
                num_layers=transformer_num_layers,
                num_tokens=transformer_action_chunk_size,
                norm_first=True,
                save_mask=False,
            )
            for _ in range(num_experts)
        )
        self.output_layers = nn.ModuleList(
            nn.Linear(transformer_d_model, action_dim) for _ in range(num_experts)
        )

    def forward(
        self,
        time: Tensor,
        noise: Tensor,
        memory_input: Tensor,
        discrete_semantic_input: Tensor | None = None,
    ) -> Tensor:
        """Return the velocities `(B, E, S, A)`."""
        queries, memory = self.inputs(time, noise, memory_input, discrete_semantic_input)
        velocities = [
            output(expert(queries, memory))
            for expert, output in zip(self.experts, self.output_layers, strict=True)
        ]
        return torch.stack(velocities, dim=1)


class NoisyTopKGate(nn.Module):
    """Weights of the experts: noisy top-k gating with a temperature that cools.

    `softmax(top_k(W_g z + n · softplus(W_n z)) / tau)` with n normal (Shazeer et al. 2017, "Outrageously
    Large Neural Networks"); both matrices start at zero, so that all experts start equal. The temperature
    goes geometrically from `temperature` to 1 over `anneal_iterations` calls.

    Args:
        input_dim: size D of a latent token.
        num_experts: number E of experts.
        temperature: tau at the first iteration, at least 1.
        top_k: experts with a weight above zero.
        anneal_iterations: the iteration from which tau is 1.

    Shapes:
        `input (B, D)` or `(B, n, D)`, of which the mean is taken → `(B, E)`, rows that sum to 1.

    Raises:
        ValueError: for values out of range.
    """

    def __init__(
        self,
        *,
        input_dim: int,
        num_experts: int,
        temperature: float,
        top_k: int,
        anneal_iterations: int = 10000,
    ) -> None:
        super().__init__()
        if not 1 <= top_k <= num_experts:
            raise ValueError(f"'top_k' must be between 1 and 'num_experts' ({num_experts}), got {top_k}")
        if temperature < 1:
            raise ValueError(f"'temperature' must be at least 1, where it ends, got {temperature}")
        if anneal_iterations < 1:
            raise ValueError(f"'anneal_iterations' must be at least 1, got {anneal_iterations}")
        self.temperature = float(temperature)
        self.top_k = top_k
        self.anneal_iterations = anneal_iterations
        self.gate = ZeroLinear(input_dim, num_experts, bias=False)
        self.noise_scale = ZeroLinear(input_dim, num_experts, bias=False)

    def forward(self, input: Tensor, iterations: int, training: bool, use_noise: bool) -> Tensor:
        """Return the mixture weights.

        Args:
            input: latent tokens.
            iterations: completed training steps, for the temperature; on a robot that of the checkpoint.
            training: with `use_noise`, noise is added to the logits.
            use_noise: see `training`.
        """
        latent = input.mean(dim=1) if input.ndim == 3 else input
        # Weights decide between experts: they are computed in float32 whatever autocast gives.
        logits = self.gate(latent).float()
        if training and use_noise:
            logits = logits + randn_like(logits) * F.softplus(self.noise_scale(latent).float())
        progress = min(max(iterations / self.anneal_iterations, 0.0), 1.0)
        logits = logits / self.temperature ** (1.0 - progress)
        best, experts = logits.topk(self.top_k, dim=-1)
        return torch.zeros_like(logits).scatter(-1, experts, best.softmax(dim=-1))
