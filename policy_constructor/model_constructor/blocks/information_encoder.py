"""The one encoder of everything that a policy conditions on: proprioception, images, semantics, actions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model_constructor.blocks.encodings import sinusoidal_positions
from model_constructor.blocks.layers import projection
from model_constructor.blocks.transformer import NonCausalTransformerEncoder


def camera_tokens(cond_visual: Tensor, num_cameras: int) -> list[Tensor]:
    """Cut feature maps into one token sequence `(B, L, C)` for each camera.

    Args:
        cond_visual: `(B, cameras, C, S)`, `(B, cameras, C, H, W)` or `(B, cameras, T, C, H, W)`; tokens go
            by row, frames oldest first.
        num_cameras: the second dimension.

    Raises:
        ValueError: for another rank or number of cameras.
    """
    if cond_visual.ndim not in (4, 5, 6):
        raise ValueError(
            "cond_visual must be (B, cameras, C, S), (B, cameras, C, H, W) or (B, cameras, T, C, H, W), "
            f"got shape {tuple(cond_visual.shape)}"
        )
    if cond_visual.shape[1] != num_cameras:
        raise ValueError(
            f"cond_visual holds {cond_visual.shape[1]} cameras, the block was made for {num_cameras}"
        )
    if cond_visual.ndim == 6:
        # (B, cameras, T, C, H, W): the channels move behind time and space, which become the tokens.
        tokens = cond_visual.movedim(3, -1).flatten(2, 4)
    else:
        tokens = cond_visual.flatten(3).transpose(2, 3)
    return list(tokens.unbind(1))


def semantic_tokens(cond_semantic: Tensor) -> Tensor:
    """`(B, F)` or `(B, n, F)` → `(B, n, F)`."""
    return cond_semantic[:, None] if cond_semantic.ndim == 2 else cond_semantic


class SourceTokens(nn.Module):
    """Project every source to tokens of one width: `[action…][semantic…][visual source 0…]…[proprio…]`.

    Every projection is Linear → ELU.

    Args:
        cond_proprio_dim: size P of a proprioceptive state.
        cond_visual_dim: channels C of the visual features.
        transformer_d_model: width D.
        use_cls_token: learned tokens are put in front.
        num_cls_token: how many.
        use_action: actions are a source too.
        action_dim: size A of an action, null unless `use_action`.
        use_cond_semantic: semantic vectors are a source too.
        use_cond_semantic_projection: project them; otherwise their size must be D.
        cond_semantic_dim: size F of a semantic vector, null unless `use_cond_semantic`.
        num_cameras: visual sources, each with a projection of its own.
        num_semantics: semantic sources with a projection of their own; null for one projection of all.
        mark_sources: add a learned embedding that says of which source a token is.

    Raises:
        ValueError: for sizes that do not fit each other.
    """

    def __init__(
        self,
        *,
        cond_proprio_dim: int,
        cond_visual_dim: int,
        transformer_d_model: int,
        use_cls_token: bool,
        num_cls_token: int,
        use_action: bool,
        action_dim: int | None,
        use_cond_semantic: bool,
        use_cond_semantic_projection: bool,
        cond_semantic_dim: int | None,
        num_cameras: int,
        num_semantics: int | None = None,
        mark_sources: bool = False,
    ) -> None:
        super().__init__()
        check_optional_size("action_dim", action_dim, "use_action", use_action)
        check_optional_size("cond_semantic_dim", cond_semantic_dim, "use_cond_semantic", use_cond_semantic)
        if num_cameras < 1:
            raise ValueError(f"at least one visual source is needed, got {num_cameras}")
        if num_semantics is not None and num_semantics < 1:
            raise ValueError(f"at least one semantic source is needed, got {num_semantics}")
        if use_cls_token and num_cls_token < 1:
            raise ValueError(f"'num_cls_token' must be at least 1 with 'use_cls_token', got {num_cls_token}")
        width = transformer_d_model
        self.width = width
        self.num_cameras = num_cameras
        self.num_cls_token = num_cls_token if use_cls_token else 0
        self.use_action = use_action
        self.use_cond_semantic = use_cond_semantic
        self.project_semantic = use_cond_semantic and use_cond_semantic_projection
        self.num_semantics = num_semantics

        # Optimizer state counts parameters in this order.
        self.cls_token: nn.Parameter | None = None
        if use_cls_token:
            self.cls_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(num_cls_token, width), std=0.02))
        self.source_embedding: nn.Parameter | None = None
        if mark_sources:
            semantics = (num_semantics or 1) if use_cond_semantic else 0
            sources = int(use_action) + semantics + num_cameras + 1
            self.source_embedding = nn.Parameter(nn.init.trunc_normal_(torch.empty(sources, width), std=0.02))
        if action_dim is not None:
            self.action_projection = projection(action_dim, width)
        if self.project_semantic:
            assert cond_semantic_dim is not None
            self.semantic_projection: nn.Module
            if num_semantics is None:
                self.semantic_projection = projection(cond_semantic_dim, width)
            else:
                self.semantic_projection = nn.ModuleList(
                    projection(cond_semantic_dim, width) for _ in range(num_semantics)
                )
        self.proprio_projection = projection(cond_proprio_dim, width)
        self.visual_projection = nn.ModuleList(projection(cond_visual_dim, width) for _ in range(num_cameras))

    def sequence(
        self,
        cond_proprio: Tensor,
        cond_visual: Tensor | Sequence[Tensor],
        cond_semantic: Tensor | Sequence[Tensor] | None,
        action: Tensor | None,
    ) -> Tensor:
        """Return `[cls…] + PE(tokens)`, `(B, L, D)`; the cls tokens have no position."""
        tokens = self.tokens(cond_proprio, cond_visual, cond_semantic, action)
        tokens = tokens + sinusoidal_positions(tokens.shape[1], self.width, like=tokens)
        if self.cls_token is not None:
            cls = self.cls_token.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
            tokens = torch.cat([cls, tokens], dim=1)
        return tokens

    def result(self, output: Tensor) -> dict[str, Tensor | None]:
        """Return `encoder_output`, all of it, and `cls_token`, its beginning, or None."""
        cls_output = output[:, : self.num_cls_token] if self.num_cls_token else None
        return {"cls_token": cls_output, "encoder_output": output}

    def tokens(
        self,
        cond_proprio: Tensor,
        cond_visual: Tensor | Sequence[Tensor],
        cond_semantic: Tensor | Sequence[Tensor] | None = None,
        action: Tensor | None = None,
    ) -> Tensor:
        """Return the projected tokens `(B, L, D)` without positions and without cls tokens."""
        action_part = [self._action(action)] if self.use_action else []
        semantic_parts = self._semantic(cond_semantic) if self.use_cond_semantic else []
        parts = [
            *action_part,
            *semantic_parts,
            *self._visual(cond_visual),
            self.proprio_projection(cond_proprio),
        ]
        if self.source_embedding is not None:
            marks = self.source_embedding.to(parts[-1].dtype)
            parts = [part + mark for part, mark in zip(parts, marks.unbind(0), strict=True)]
        return torch.cat(parts, dim=1)

    def _action(self, action: Tensor | None) -> Tensor:
        if action is None:
            raise ValueError("this block was made with actions, so 'action' cannot be null")
        return self.action_projection(action)

    def _visual(self, cond_visual: Tensor | Sequence[Tensor]) -> list[Tensor]:
        if not isinstance(cond_visual, Tensor):
            sources = list(cond_visual)
        elif cond_visual.ndim == 3:
            sources = [cond_visual]
        else:
            sources = camera_tokens(cond_visual, self.num_cameras)
        if len(sources) != self.num_cameras:
            raise ValueError(f"got {len(sources)} visual sources, the block was made for {self.num_cameras}")
        return [project(source) for project, source in zip(self.visual_projection, sources, strict=True)]

    def _semantic(self, cond_semantic: Tensor | Sequence[Tensor] | None) -> list[Tensor]:
        if cond_semantic is None:
            raise ValueError("this block was made with semantics, so 'cond_semantic' cannot be null")
        if self.num_semantics is not None:
            if isinstance(cond_semantic, Tensor):
                raise ValueError("each semantic source has its own projection: give a list of them")
            sources = [semantic_tokens(source) for source in cond_semantic]
            if len(sources) != self.num_semantics:
                raise ValueError(
                    f"got {len(sources)} semantic sources, the block was made for {self.num_semantics}"
                )
            if not self.project_semantic:
                return [self._of_width(source) for source in sources]
            assert isinstance(self.semantic_projection, nn.ModuleList)
            pairs = zip(self.semantic_projection, sources, strict=True)
            return [project(source) for project, source in pairs]
        if not isinstance(cond_semantic, Tensor):
            raise ValueError("'cond_semantic' must be one tensor (B, F) or (B, n, F)")
        source = semantic_tokens(cond_semantic)
        return [self.semantic_projection(source) if self.project_semantic else self._of_width(source)]

    def _of_width(self, source: Tensor) -> Tensor:
        if source.shape[-1] != self.width:
            raise ValueError(
                f"semantic vectors have size {source.shape[-1]}, which without a projection must be "
                f"'transformer_d_model' ({self.width})"
            )
        return source


class InformationEncoder(SourceTokens):
    """Let a transformer encoder mix the tokens of all sources, with sinusoidal positions.

    The sequence is `[cls…] + PE([action…][semantic…][visual source 0…]…[visual source n…][proprio…])`.

    Args:
        transformer_nhead: attention heads.
        transformer_dim_feedforward: hidden size of the feed-forward parts.
        transformer_dropout: dropout.
        transformer_activation: `relu` or `gelu`.
        transformer_batch_first: part of the interface; must be true.
        transformer_num_layers: layers.
        norm_first: pre-norm layers, and a learned embedding that says of which source a token is.

    The other arguments are those of `SourceTokens`.
    """

    def __init__(
        self,
        *,
        cond_proprio_dim: int,
        cond_visual_dim: int,
        transformer_d_model: int,
        transformer_nhead: int,
        transformer_dim_feedforward: int,
        transformer_dropout: float,
        transformer_activation: str,
        transformer_batch_first: bool,
        transformer_num_layers: int,
        use_cls_token: bool,
        num_cls_token: int,
        use_action: bool,
        action_dim: int | None,
        use_cond_semantic: bool,
        use_cond_semantic_projection: bool,
        cond_semantic_dim: int | None,
        num_cameras: int,
        num_semantics: int | None = None,
        norm_first: bool = False,
    ) -> None:
        check_batch_first(transformer_batch_first)
        super().__init__(
            cond_proprio_dim=cond_proprio_dim,
            cond_visual_dim=cond_visual_dim,
            transformer_d_model=transformer_d_model,
            use_cls_token=use_cls_token,
            num_cls_token=num_cls_token,
            use_action=use_action,
            action_dim=action_dim,
            use_cond_semantic=use_cond_semantic,
            use_cond_semantic_projection=use_cond_semantic_projection,
            cond_semantic_dim=cond_semantic_dim,
            num_cameras=num_cameras,
            num_semantics=num_semantics,
            mark_sources=norm_first,
        )
        self.encoder = NonCausalTransformerEncoder(
            d_model=transformer_d_model,
            nhead=transformer_nhead,
            dim_feedforward=transformer_dim_feedforward,
            dropout=transformer_dropout,
            activation=transformer_activation,
            batch_first=True,
            num_layers=transformer_num_layers,
            norm_first=norm_first,
        )

    def forward(
        self,
        cond_proprio: Tensor,
        cond_visual: Tensor | Sequence[Tensor],
        cond_semantic: Tensor | Sequence[Tensor] | None = None,
        action: Tensor | None = None,
    ) -> dict[str, Tensor | None]:
        """Encode all sources.

        Args:
            cond_proprio: `(B, T, P)`.
            cond_visual: feature maps as `camera_tokens` takes them, one token sequence `(B, L, C)`, or a
                list with one for each visual source.
            cond_semantic: `(B, F)` or `(B, n, F)`; a sequence of those where each has its own projection.
            action: `(B, T_a, A)`, needed exactly when the encoder was made with `use_action`.

        Returns:
            `encoder_output (B, L, D)`, cls tokens included, and `cls_token (B, num_cls, D)` or None.

        Raises:
            ValueError: for inputs that do not fit the constructor's arguments.
        """
        tokens = self.sequence(cond_proprio, cond_visual, cond_semantic, action)
        return self.result(self.encoder(tokens))


def check_optional_size(size_name: str, size: int | None, flag_name: str, flag: bool) -> None:
    """Raise `ValueError` unless the size is given exactly when its flag is set."""
    if flag and size is None:
        raise ValueError(f"'{size_name}' is needed with '{flag_name}: true'")
    if not flag and size is not None:
        raise ValueError(f"'{size_name}' has no effect with '{flag_name}: false'; set it to null")


def check_batch_first(batch_first: bool) -> None:
    """Raise `ValueError` for `transformer_batch_first: false`, which no block can honour."""
    if not batch_first:
        raise ValueError("'transformer_batch_first' must be true: all inputs of the block are batch first")
