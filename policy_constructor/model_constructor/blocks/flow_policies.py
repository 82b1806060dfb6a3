"""Encoders of the naive and the variational flow-matching policies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model_constructor.blocks.cfg_vqvae import VQVAEPosterior, VQVAEPrior
from model_constructor.blocks.information_encoder import InformationEncoder, SourceTokens, camera_tokens


class ProprioProjector(nn.Module):
    """Put proprioception beside visual tokens: `[camera 0…]…[camera n…][proprio…]`.

    Args:
        cond_proprio_dim: size P of a proprioceptive state.
        transformer_d_model: width D, which is also the number of visual channels.

    Shapes:
        `cond_proprio (B, T, P)`, `cond_visual (B, cameras, D, h, w)` → `(B, cameras·h·w + T, D)`.
    """

    def __init__(self, *, cond_proprio_dim: int, transformer_d_model: int) -> None:
        super().__init__()
        self.width = transformer_d_model
        self.proprio_projection = nn.Linear(cond_proprio_dim, transformer_d_model)

    def forward(self, cond_proprio: Tensor, cond_visual: Tensor) -> Tensor:
        """Return the tokens; raises `ValueError` for visual features of another width."""
        if cond_visual.ndim != 5 or cond_visual.shape[2] != self.width:
            raise ValueError(
                f"cond_visual must be (B, cameras, {self.width}, h, w), got shape {tuple(cond_visual.shape)}"
            )
        visual = camera_tokens(cond_visual, cond_visual.shape[1])
        return torch.cat([*visual, self.proprio_projection(cond_proprio)], dim=1)


class InfoEmbedder(InformationEncoder):
    """All conditions as one token sequence, for one flattened sequence of visual tokens.

    A pre-norm `InformationEncoder` (Xiong et al. 2020, "On Layer Normalization in the Transformer
    Architecture") whose tokens carry their position and the embedding of their source. Arguments as there.

    Shapes:
        `cond_proprio (B, T, P)`, `cond_visual (B, L, C)`, `cond_semantic (B, F)` or `(B, n, F)`, `action`
        None or `(B, T_a, A)` → `{"encoder_output": (B, L', D), "cls_token": (B, num_cls, D) or None}`.
    """

    def __init__(
        self,
        *,
        cond_proprio_dim: int,
        cond_visual_dim: int,
        action_dim: int | None,
        use_action: bool,
        use_cond_semantic: bool,
        use_cond_semantic_projection: bool,
        cond_semantic_dim: int | None,
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
        super().__init__(
            cond_proprio_dim=cond_proprio_dim,
            cond_visual_dim=cond_visual_dim,
            action_dim=action_dim,
            use_action=use_action,
            use_cond_semantic=use_cond_semantic,
            use_cond_semantic_projection=use_cond_semantic_projection,
            cond_semantic_dim=cond_semantic_dim,
            use_cls_token=use_cls_token,
            num_cls_token=num_cls_token,
            transformer_d_model=transformer_d_model,
            transformer_nhead=transformer_nhead,
            transformer_dim_feedforward=transformer_dim_feedforward,
            transformer_dropout=transformer_dropout,
            transformer_activation=transformer_activation,
            transformer_batch_first=transformer_batch_first,
            transformer_num_layers=transformer_num_layers,
            num_cameras=1,
            norm_first=True,
        )


class MultiSourceInfoEmbedder(InformationEncoder):
    """All conditions as one token sequence, each visual and each semantic source with its own projection.

    As `InfoEmbedder` otherwise.

    Args:
        num_cond_visuals: length of the list `cond_visual`.
        num_cond_semantic: length of the list `cond_semantic`.

    Shapes:
        `cond_proprio (B, T, P)`, `cond_visual` a list of `(B, L_i, C)`, `cond_semantic` a list of `(B, 1,
        F)`, `action` None or `(B, T_a, A)` → `{"encoder_output": (B, L', D), "cls_token": (B, num_cls, D)
        or None}`.
    """

    def __init__(
        self,
        *,
        cond_proprio_dim: int,
        cond_visual_dim: int,
        action_dim: int | None,
        use_action: bool,
        use_cond_semantic: bool,
        use_cond_semantic_projection: bool,
        cond_semantic_dim: int | None,
        use_cls_token: bool,
        num_cls_token: int,
        num_cond_semantic: int,
        num_cond_visuals: int,
        transformer_d_model: int,
        transformer_nhead: int,
        transformer_dim_feedforward: int,
        transformer_dropout: float,
        transformer_activation: str,
        transformer_batch_first: bool,
        transformer_num_layers: int,
    ) -> None:
        super().__init__(
            cond_proprio_dim=cond_proprio_dim,
            cond_visual_dim=cond_visual_dim,
            action_dim=action_dim,
            use_action=use_action,
            use_cond_semantic=use_cond_semantic,
            use_cond_semantic_projection=use_cond_semantic_projection,
            cond_semantic_dim=cond_semantic_dim,
            use_cls_token=use_cls_token,
            num_cls_token=num_cls_token,
            transformer_d_model=transformer_d_model,
            transformer_nhead=transformer_nhead,
            transformer_dim_feedforward=transformer_dim_feedforward,
            transformer_dropout=transformer_dropout,
            transformer_activation=transformer_activation,
            transformer_batch_first=transformer_batch_first,
            transformer_num_layers=transformer_num_layers,
            num_cameras=num_cond_visuals,
            num_semantics=num_cond_semantic,
            norm_first=True,
        )


class MultimodalBridge(SourceTokens):
    """The projected tokens of all sources, with positions and marks, before any attention.

    Arguments as in `MultiSourceInfoEmbedder`.

    Shapes:
        `cond_proprio (B, T, P)`, `cond_visual` a list of `(B, L_i, C)`, `cond_semantic` a list of `(B, 1,
        F)`, `action` None or `(B, T_a, A)` → `{"encoder_output": (B, L', D), "cls_token": (B, num_cls, D)
        or None}`.
    """

    def __init__(
        self,
        *,
        cond_proprio_dim: int,
        cond_visual_dim: int,
        action_dim: int | None,
        use_action: bool,
        use_cond_semantic: bool,
        use_cond_semantic_projection: bool,
        cond_semantic_dim: int | None,
        use_cls_token: bool,
        num_cls_token: int,
        num_cond_semantic: int,
        num_cond_visuals: int,
        transformer_d_model: int,
    ) -> None:
        super().__init__(
            cond_proprio_dim=cond_proprio_dim,
            cond_visual_dim=cond_visual_dim,
            action_dim=action_dim,
            use_action=use_action,
            use_cond_semantic=use_cond_semantic,
            use_cond_semantic_projection=use_cond_semantic_projection,
            cond_semantic_dim=cond_semantic_dim,
            use_cls_token=use_cls_token,
            num_cls_token=num_cls_token,
            transformer_d_model=transformer_d_model,
            num_cameras=num_cond_visuals,
            num_semantics=num_cond_semantic,
            mark_sources=True,
        )

    def forward(
        self,
        cond_proprio: Tensor,
        cond_visual: Sequence[Tensor],
        cond_semantic: Sequence[Tensor] | None = None,
        action: Tensor | None = None,
    ) -> dict[str, Tensor | None]:
        """Return `encoder_output (B, L, D)` and `cls_token (B, num_cls, D)` or None."""
        return self.result(self.sequence(cond_proprio, cond_visual, cond_semantic, action))


class VariationalPosterior(VQVAEPosterior):
    """Latent tokens of actions and conditions: a pre-norm `cfg_vqvae_posterior` that marks its sources.

    The recognition model of a variational flow-matching policy (Zhai et al. 2025, "VFP: Variational
    Flow-Matching Policy for Multi-Modal Robot Manipulation"). `cond_visual` may be one flattened camera
    `(B, L, C)`.
    """

    norm_first = True


class VariationalPrior(VQVAEPrior):
    """Latent tokens of the conditions alone: a pre-norm `cfg_vqvae_prior` that marks its sources."""

    norm_first = True
