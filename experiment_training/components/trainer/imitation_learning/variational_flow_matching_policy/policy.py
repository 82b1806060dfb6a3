"""A flow-matching policy with several experts, weighed by a latent variable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiment_training.components.loss.moe_gating_loss import switch_load_balancing_loss
from experiment_training.components.trainer.imitation_learning.camera_flow import (
    CAMERAS,
    STATE,
    CameraFlowPolicy,
    as_tokens,
    camera_frames,
    latent_distance,
    twice,
    with_start,
)
from experiment_training.components.trainer.imitation_learning.flow_matching import IntegrationMethod
from trainer.templates import Context

DEPTH_LAYERS = (18, 23)


class VariationalFlowMatchingPolicy(CameraFlowPolicy):
    """Draws action chunks by following the flow of several experts (Zhai et al. 2025, "VFP").

    Components: `backbone` (image → features, semantics), `da3` (depth features), `vqvae_posterior` and
    `vqvae_prior` (latent tokens of conditions, with and without actions), `info_embedder` (all conditions →
    `encoder_output`), `gate` (latent → weights of E experts), `moe_action_decoder` (their velocities).

    The gate reads the posterior's tokens in training and the prior's on a robot, both with normal noise. Its
    temperature falls with the updates made; on a robot it is that of the checkpoint.

    Args:
        components: those above.
        loss: the transport, None with `ot_weight` 0.
        ot_weight: weight of the transport `train.loss` from the one-step estimate of the actions.
        balance_weight: weight of `load_balancing`, which is 1 where the experts are the largest one alike
            often; 0 leaves it out.
        expert: whose flow a robot follows: the `mixture`, the `likeliest` one of each chunk, or the number
            of one.

    The other arguments are those of `CameraFlowPolicy`.

    Raises:
        ValueError: a component or the loss is missing, or a number is out of range.
    """

    needs = (
        "backbone",
        "da3",
        "vqvae_posterior",
        "vqvae_prior",
        "info_embedder",
        "gate",
        "moe_action_decoder",
    )
    updates: Tensor

    def __init__(
        self,
        components: nn.ModuleDict,
        loss: nn.Module | None = None,
        *,
        action_horizon: int = 40,
        action_dim: int = 24,
        n_action_steps: int | None = None,
        integration_steps: int = 10,
        integration_method: IntegrationMethod = "euler",
        train_on_padding: bool = False,
        cameras: Sequence[str] = CAMERAS,
        ot_weight: float = 0.2,
        balance_weight: float = 0.0,
        expert: Literal["mixture", "likeliest"] | int = "mixture",
    ) -> None:
        super().__init__(
            components,
            action_horizon=action_horizon,
            action_dim=action_dim,
            n_action_steps=n_action_steps,
            integration_steps=integration_steps,
            integration_method=integration_method,
            train_on_padding=train_on_padding,
            cameras=cameras,
        )
        self.use_transport(loss, ot_weight)
        if balance_weight < 0:
            raise ValueError(f"balance_weight must not be negative, it is {balance_weight}")
        self.balance_weight = balance_weight
        self.expert = expert
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def loss(self, batch: dict[str, Tensor], context: Context) -> dict[str, Tensor]:
        """Return `total`, `velocity`, `Sinkhorn`, `prior_posterior` and how the experts are used.

        `velocity` is the squared error of each expert's velocity, weighed by the gate; `expert e` the share
        of the samples whose largest weight is e's, `Expected Activated Expert` the mean of that number.

        Args:
            batch: normalized; `action (B, S, A)`, `action_is_pad (B, S)`, state and cameras.
            context: noise, times and the number of updates made.
        """
        if context.training:
            self.updates.fill_(context.step + 1)
        memory, head = self._observe(batch)
        posterior = self.call("vqvae_posterior", **head, action=batch["action"])
        prior = self.call("vqvae_prior", **head, action=None)
        weights = self._gate(posterior, context, context.step if context.training else int(self.updates))
        flow = self.sample_flow(batch, context)
        time, points = with_start(flow)
        velocities, starts = self._velocities(time, points, twice(memory)).chunk(2)
        error = (velocities - flow.velocity[:, None]).square()
        losses = {
            "velocity": self.action_error(_weighed(error, weights), batch),
            "prior_posterior": latent_distance(prior, posterior),
        }
        total = losses["velocity"] + losses["prior_posterior"]
        if self.transport_loss is not None:
            losses["Sinkhorn"] = self.transport(flow.noise + _weighed(starts, weights), batch)
            total = total + self.ot_weight * losses["Sinkhorn"]
        largest = weights.argmax(dim=-1)
        chosen = F.one_hot(largest, weights.shape[1]).float()
        if self.balance_weight > 0:
            losses["load_balancing"] = switch_load_balancing_loss(weights, chosen, top_k=1)
            total = total + self.balance_weight * losses["load_balancing"]
        shares = {f"expert {e}": share for e, share in enumerate(chosen.mean(dim=0).unbind())}
        return {"total": total, **losses, "Expected Activated Expert": largest.float().mean(), **shares}

    def predict_action(self, observation: dict[str, Tensor], context: Context) -> Tensor:
        """Return an action chunk `(B, S, A)`, normalized.

        Raises:
            ValueError: there is no such expert.
        """
        memory, head = self._observe(observation)
        prior = self.call("vqvae_prior", **head, action=None)
        weights = self._gate(prior, context, int(self.updates))
        experts = weights.shape[1]
        if self.expert == "likeliest":
            weights = F.one_hot(weights.argmax(dim=-1), experts).to(weights.dtype)
        elif self.expert != "mixture":
            if not 0 <= self.expert < experts:
                raise ValueError(f"expert is {self.expert}, but there are experts 0 to {experts - 1}")
            weights = torch.zeros_like(weights)
            weights[:, self.expert] = 1.0
        return self.follow(
            lambda time, x: _weighed(self._velocities(time, x, memory), weights), memory.shape[0], context
        )

    def _observe(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return all conditions as tokens `(B, L, D)`, and what posterior and prior read of the head."""
        frames = camera_frames(batch, self.cameras)
        features, semantics = self.camera_features(frames)
        head, *others = (as_tokens(one) for one in features)
        visual = torch.cat([head, *self.depth_tokens(frames[:1], DEPTH_LAYERS), *others], dim=1)
        conditions = {"cond_proprio": batch[STATE], "cond_semantic": semantics[0]}
        memory: Tensor = self.call("info_embedder", **conditions, cond_visual=visual, action=None)[
            "encoder_output"
        ]
        return memory, {**conditions, "cond_visual": head}

    def _gate(self, latent: Tensor, context: Context, updates: int) -> Tensor:
        noisy = latent + context.random.normal(tuple(latent.shape))
        weights: Tensor = self.call(
            "gate", input=noisy, iterations=updates, training=context.training, use_noise=True
        )
        return weights

    def _velocities(self, time: Tensor, point: Tensor, memory: Tensor) -> Tensor:
        velocities: Tensor = self.call(
            "moe_action_decoder", time=time, noise=point, memory_input=memory, discrete_semantic_input=None
        )
        return velocities


def _weighed(values: Tensor, weights: Tensor) -> Tensor:
    """Return Σ_e w_e · values_e for `(B, E, S, A)` and `(B, E)`: `(B, S, A)`, float32."""
    return (values.float() * weights[:, :, None, None]).sum(dim=1)
