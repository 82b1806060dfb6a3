"""ACT: action chunking with transformers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from experiment_training.components.trainer.imitation_learning.chunk_policy import (
    check_executed,
    check_needed,
)
from experiment_training.components.trainer.imitation_learning.flow_matching import chunk_error
from trainer.modeling.observations import encoder_arguments
from trainer.templates import Context, Policy


class ACTPolicy(Policy):
    """Predicts an action chunk from observations and a latent that stands for the style of a demonstration.

    Zhao et al. 2023, "Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware": a conditional
    variational autoencoder. With z drawn from q(z | s, a) the loss is
    |π(o, z) − a| / (S·A) + β · KL(q ‖ N(0, 1)); a robot has z = 0.

    Components, whose graph inputs are named after the observation features that they want:

    - `style_encoder` also takes `action (B, S, A)` and `action_is_pad (B, S)`, and returns `(B, 2Z)`, mean
      and logarithm of the variance of z;
    - `backbone`, if there are cameras, returns feature maps, one `(B, C, h, w)` or a list of them;
    - `action_transformer` also takes `latent (B, Z)` and, with a backbone, `features`, a list of its maps,
      and returns the chunk `(B, S, A)`.

    Args:
        components: the two or three components.
        action_horizon: S, the length of a chunk.
        action_dim: A.
        n_action_steps: how many actions of a chunk are executed before the next one is asked for; all of them
            if not given, as published. With `train.temporal_ensembling` every step asks for one.
        latent_dim: Z.
        kl_weight: β.

    Raises:
        ValueError: a component is missing, or a number is out of range.
    """

    def __init__(
        self,
        components: nn.ModuleDict,
        *,
        action_horizon: int,
        action_dim: int,
        n_action_steps: int | None = None,
        latent_dim: int = 32,
        kl_weight: float = 10.0,
    ) -> None:
        super().__init__()
        check_needed(components, ("style_encoder", "action_transformer"), "ACT")
        executed = action_horizon if n_action_steps is None else n_action_steps
        check_executed(executed, action_horizon)
        if kl_weight < 0:
            raise ValueError(f"kl_weight is {kl_weight}, but it must not be negative")
        self.components = components
        self.action_shape = (action_horizon, action_dim)
        self.n_action_steps = executed
        self.latent_dim = latent_dim
        self.kl_weight = kl_weight

    def loss(self, batch: dict[str, Tensor], context: Context) -> dict[str, Tensor]:
        """Return `total`, and its parts `l1`, the mean absolute error, and `kl`, in nats and not weighed.

        Args:
            batch: normalized; `action (B, S, A)`, `action_is_pad (B, S)` and the observations.
            context: noise of the latent.
        """
        action = batch["action"]
        is_pad = batch.get("action_is_pad")
        style_encoder = self.components["style_encoder"]
        style = style_encoder(
            **encoder_arguments(style_encoder, batch, given=("action", "action_is_pad")),
            action=action,
            action_is_pad=torch.zeros_like(action[..., 0], dtype=torch.bool) if is_pad is None else is_pad,
        )
        mean, log_variance = style.float().chunk(2, dim=-1)
        latent = mean + torch.exp(0.5 * log_variance) * context.random.normal(tuple(mean.shape))
        error = (self._predict(batch, latent) - action).abs()
        l1 = chunk_error(error, is_pad, batch.get("action_dim_is_pad"))
        kl = kl_to_standard_normal(mean, log_variance).mean()
        return {"total": l1 + self.kl_weight * kl, "l1": l1, "kl": kl}

    def predict_action(self, observation: dict[str, Tensor], context: Context) -> Tensor:
        """Return an action chunk `(B, S, A)`, normalized."""
        return self._predict(observation)

    def _predict(self, batch: dict[str, Tensor], latent: Tensor | None = None) -> Tensor:
        """Return the chunk for a latent `(B, Z)`, zeros if not given."""
        transformer = self.components["action_transformer"]
        features: list[Tensor] = []
        if "backbone" in self.components:
            backbone = self.components["backbone"]
            maps = backbone(**encoder_arguments(backbone, batch))
            features = [maps] if isinstance(maps, Tensor) else list(maps)
        own = ("latent", "features") if features else ("latent",)
        arguments = encoder_arguments(transformer, batch, given=own)
        if latent is None:
            seen = next(iter((*features, *arguments.values())))
            latent = torch.zeros(len(seen), self.latent_dim, device=seen.device)
        chunk: Tensor = transformer(
            latent=latent, **arguments, **({"features": features} if features else {})
        )
        return chunk


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(μ, σ²) ‖ N(0, 1)) = ½ Σ (μ² + σ² − 1 − log σ²) of every row, `(B, Z)` → `(B,)`, in nats."""
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(dim=-1)
