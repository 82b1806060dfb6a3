"""Blocks of classifier-free-guided flow matching with a vector-quantised posterior."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model_constructor.blocks.encodings import sinusoidal_positions, transformer_time_embedding
from model_constructor.blocks.information_encoder import (
    InformationEncoder,
    check_batch_first,
    check_optional_size,
    semantic_tokens,
)
from model_constructor.blocks.layers import projection
from model_constructor.blocks.transformer import TransformerDecoder


class VQVAEPosterior(nn.Module):
    """Latent tokens of an action chunk and its conditions: the cls outputs of an `InformationEncoder`.

    The posterior of a VQ-VAE (van den Oord et al. 2017, "Neural Discrete Representation Learning") before
    quantisation. Arguments as in `InformationEncoder`; actions are always used.

    Shapes:
        `cond_proprio (B, T, P)`, `cond_visual (B, cameras, C, …)`, `cond_semantic (B, F)` or `(B, n, F)`,
        `action (B, T_a, A)` → `(B, num_cls_token, D)`.
    """

    norm_first = False

    def __init__(
        self,
        *,
        cond_proprio_dim: int,
        cond_visual_dim: int,
        action_dim: int,
        use_cond_semantic: bool,
        use_cond_semantic_projection: bool,
        cond_semantic_dim: int | None,
        num_cameras: int,
        use_cls_token: bool,
        num_cls_token: int,
        transformer_d_model: int,
        transformer_nhead: int,
        transformer_dim_feedforward: int,
        transformer_dropout: float,
        transformer_activation: str,
        transformer_batch_first: bool,
        transformer_num_layers: int,
    ) -> None:
        super().__init__()
        check_cls(use_cls_token)
        self.encoder = InformationEncoder(
            cond_proprio_dim=cond_proprio_dim,
            cond_visual_dim=cond_visual_dim,
            transformer_d_model=transformer_d_model,
            transformer_nhead=transformer_nhead,
            transformer_dim_feedforward=transformer_dim_feedforward,
            transformer_dropout=transformer_dropout,
            transformer_activation=transformer_activation,
            transformer_batch_first=transformer_batch_first,
            transformer_num_layers=transformer_num_layers,
            use_cls_token=use_cls_token,
            num_cls_token=num_cls_token,
            use_action=True,
            action_dim=action_dim,
            use_cond_semantic=use_cond_semantic,
            use_cond_semantic_projection=use_cond_semantic_projection,
            cond_semantic_dim=cond_semantic_dim,
            num_cameras=num_cameras,
            norm_first=self.norm_first,
        )

    def forward(
        self,
        cond_proprio: Tensor,
        cond_visual: Tensor,
        cond_semantic: Tensor | None = None,
        action: Tensor | None = None,
    ) -> Tensor:
        """Return the latent tokens; `action` must be given."""
        cls = self.encoder(cond_proprio, cond_visual, cond_semantic, action)["cls_token"]
        assert cls is not None
        return cls


class VQVAEPrior(nn.Module):
    """Latent tokens from the conditions alone; as the posterior, but an `action` is ignored.

    Shapes:
        `cond_proprio (B, T, P)`, `cond_visual (B, cameras, C, …)`, `cond_semantic (B, F)` or `(B, n, F)`,
        `action` anything → `(B, num_cls_token, D)`.
    """

    norm_first = False

    def __init__(
        self,
        *,
        cond_proprio_dim: int,
        cond_visual_dim: int,
        use_cond_semantic: bool,
        use_cond_semantic_projection: bool,
        cond_semantic_dim: int | None,
        num_cameras: int,
        use_cls_token: bool,
        num_cls_token: int,
        transformer_d_model: int,
        transformer_nhead: int,
        transformer_dim_feedforward: int,
        transformer_dropout: float,
        transformer_activation: str,
        transformer_batch_first: bool,
        transformer_num_layers: int,
    ) -> None:
        super().__init__()
        check_cls(use_cls_token)
        self.encoder = InformationEncoder(
            cond_proprio_dim=cond_proprio_dim,
            cond_visual_dim=cond_visual_dim,
            transformer_d_model=transformer_d_model,
            transformer_nhead=transformer_nhead,
            transformer_dim_feedforward=transformer_dim_feedforward,
            transformer_dropout=transformer_dropout,
            transformer_activation=transformer_activation,
            transformer_batch_first=transformer_batch_first,
            transformer_num_layers=transformer_num_layers,
            use_cls_token=use_cls_token,
            num_cls_token=num_cls_token,
            use_action=False,
            action_dim=None,
            use_cond_semantic=use_cond_semantic,
            use_cond_semantic_projection=use_cond_semantic_projection,
            cond_semantic_dim=cond_semantic_dim,
            num_cameras=num_cameras,
            norm_first=self.norm_first,
        )

    def forward(
        self,
        cond_proprio: Tensor,
        cond_visual: Tensor,
        cond_semantic: Tensor | None = None,
        action: Tensor | None = None,
    ) -> Tensor:
        """Return the latent tokens `(B, num_cls_token, D)`."""
        cls = self.encoder(cond_proprio, cond_visual, cond_semantic)["cls_token"]
        assert cls is not None
        return cls


class ConditioningInfoEncoder(nn.Module):
    """All conditions as one token sequence: no cls tokens, no actions, semantics not projected.

    Shapes:
        `cond_proprio (B, T, P)`, `cond_visual (B, cameras, C, …)`, `cond_semantic (B, D)` or `(B, n, D)` →
        `(B, L, D)`.
    """

    def __init__(
        self,
        *,
        cond_proprio_dim: int,
        cond_visual_dim: int,
        use_cond_semantic: bool,
        cond_semantic_dim: int | None,
        num_cameras: int,
        transformer_d_model: int,
        transformer_nhead: int,
        transformer_dim_feedforward: int,
        transformer_dropout: float,
        transformer_activation: str,
        transformer_batch_first: bool,
        transformer_num_layers: int,
    ) -> None:
        super().__init__()
        self.encoder = InformationEncoder(
            cond_proprio_dim=cond_proprio_dim,
            cond_visual_dim=cond_visual_dim,
            transformer_d_model=transformer_d_model,
            transformer_nhead=transformer_nhead,
            transformer_dim_feedforward=transformer_dim_feedforward,
            transformer_dropout=transformer_dropout,
            transformer_activation=transformer_activation,
            transformer_batch_first=transformer_batch_first,
            transformer_num_layers=transformer_num_layers,
            use_cls_token=False,
            num_cls_token=0,
            use_action=False,
            action_dim=None,
            use_cond_semantic=use_cond_semantic,
            use_cond_semantic_projection=False,
            cond_semantic_dim=cond_semantic_dim,
            num_cameras=num_cameras,
        )

    def forward(
        self,
        cond_proprio: Tensor,
        cond_visual: Tensor,
        cond_semantic: Tensor | None = None,
        action: Tensor | None = None,
    ) -> Tensor:
        """Return the encoded conditions `(B, L, D)`; an `action` is ignored."""
        output = self.encoder(cond_proprio, cond_visual, cond_semantic)["encoder_output"]
        assert output is not None
        return output


class ActionDecoder(nn.Module):
    """Velocity of an action chunk: a post-norm transformer decoder that reads time and conditions as memory.

    Its maths is fixed by the checkpoints that it loads: queries carry no position, the causal mask tells
    them apart, and the time in [0, 1] enters a 10000-base embedding as it is. New experiments take
    `naive_action_decoder`, which mends both.

    Args:
        action_dim: size A of an action.
        transformer_tgt_is_causal: an action sees itself and those before it.
        transformer_action_chunk_size: chunk length S, obligatory length when causal.
        use_cond_semantic_projection: project the semantic input; otherwise its size must be D.
        use_cond_semantic: there is a semantic input.
        cond_semantic_dim: its size.

    The other arguments are those of `InformationEncoder`.

    Shapes:
        `time (B,)` or `(B, 1)`, `noise (B, S, A)`, `memory_input (B, L, D)`, `discrete_semantic_input (B,
        D)` or `(B, n, D)` or None → velocity `(B, S, A)`.
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
        use_cond_semantic_projection: bool = False,
        use_cond_semantic: bool = False,
        cond_semantic_dim: int | None = None,
    ) -> None:
        super().__init__()
        check_batch_first(transformer_batch_first)
        check_optional_size("cond_semantic_dim", cond_semantic_dim, "use_cond_semantic", use_cond_semantic)
        width = transformer_d_model
        self.width = width
        self.use_cond_semantic = use_cond_semantic
        self.noise_projection = projection(action_dim, width)
        self.semantic_projection: nn.Sequential | None = None
        if cond_semantic_dim is not None and use_cond_semantic_projection:
            self.semantic_projection = projection(cond_semantic_dim, width)
        elif cond_semantic_dim is not None and cond_semantic_dim != width:
            raise ValueError(
                f"'cond_semantic_dim' ({cond_semantic_dim}) must be 'transformer_d_model' ({width}) "
                "without 'use_cond_semantic_projection'"
            )
        self.time_mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
        self.decoder = TransformerDecoder(
            d_model=width,
            nhead=transformer_nhead,
            dim_feedforward=transformer_dim_feedforward,
            dropout=transformer_dropout,
            activation=transformer_activation,
            batch_first=True,
            tgt_is_causal=transformer_tgt_is_causal,
            num_layers=transformer_num_layers,
            num_tokens=transformer_action_chunk_size,
        )
        self.output_layer = nn.Sequential(nn.ELU(), nn.Linear(width, action_dim))

    def forward(
        self,
        time: Tensor,
        noise: Tensor,
        memory_input: Tensor,
        discrete_semantic_input: Tensor | None = None,
    ) -> Tensor:
        """Return the velocity `(B, S, A)`.

        Raises:
            ValueError: when the semantic input is missing or not expected, or a causal chunk has another
                length.
        """
        queries = self.noise_projection(noise)
        memory = memory_input + sinusoidal_positions(memory_input.shape[1], self.width, like=memory_input)
        time_embedding = transformer_time_embedding(time.reshape(-1), self.width).to(noise.dtype)
        time_token = self.time_mlp(time_embedding)[:, None]
        parts = [time_token, memory]
        if self.use_cond_semantic:
            if discrete_semantic_input is None:
                raise ValueError("with 'use_cond_semantic: true' the decoder needs discrete_semantic_input")
            semantic = semantic_tokens(discrete_semantic_input)
            parts.insert(0, self.semantic_projection(semantic) if self.semantic_projection else semantic)
        elif discrete_semantic_input is not None:
            raise ValueError("with 'use_cond_semantic: false' discrete_semantic_input must be null")
        return self.output_layer(self.decoder(queries, torch.cat(parts, dim=1)))


def check_cls(use_cls_token: bool) -> None:
    """Raise `ValueError` where the cls tokens are the output and are switched off."""
    if not use_cls_token:
        raise ValueError("'use_cls_token' must be true: the cls tokens are what this block returns")
