"""A flow-matching policy guided by vector-quantised latent tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from experiment_training.components.trainer.imitation_learning.camera_flow import (
    CAMERAS,
    STATE,
    CameraFlowPolicy,
    camera_frames,
    twice,
    with_start,
)
from experiment_training.components.trainer.imitation_learning.flow_matching import IntegrationMethod
from trainer.templates import Context
from trainer.utils.random import Random

DEPTH_LAYERS = (8, 13, 18, 23)


class GuidedFlowMatchingPolicy(CameraFlowPolicy):
    """Draws action chunks by following a flow whose latent tokens are as strong a guide as is asked for.

    Components: `backbone` (image → features, semantics) and `da3` (depth features), usually frozen;
    `vqvae_posterior` and `vqvae_prior` (latent tokens of conditions, with and without actions),
    `vqvae_codebook` (the nearest code vectors), `proprio_projector` (cameras and state → tokens),
    `action_decoder` (the velocity).

    The flow is trained on latents in which the quantisation error is replaced by noise of the same length
    (Vali & Bäckström 2022, "NSVQ: Noise Substitution in Vector Quantization for Machine Learning"), and on
    some samples without latents, which are zeros then, so that it can be guided (Ho & Salimans 2022,
    "Classifier-Free Diffusion Guidance").

    Args:
        components: those above.
        loss: the transport, None with `ot_weight` 0.
        ot_weight: weight of the transport `train.loss` from the one-step estimate of the actions.
        commitment_weight: weight of the distance from the posterior's tokens to their code vectors.
        latent_dropout: share of the samples that are trained without latents; it grows from 0 at the first
            epoch.
        latent_dropout_epochs: epochs after which it is reached; 0 for at once.
        guidance_weight: w of the velocity v₀ + w · (v − v₀) that a robot follows, where v is that with the
            prior's quantised tokens and v₀ that without any: 1 for v, 0 for v₀; others cost twice.

    The other arguments are those of `CameraFlowPolicy`.

    Raises:
        ValueError: a component or the loss is missing, or a number is out of range.
    """

    needs = (
        "backbone",
        "da3",
        "vqvae_posterior",
        "vqvae_prior",
        "vqvae_codebook",
        "proprio_projector",
        "action_decoder",
    )

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
        commitment_weight: float = 0.25,
        latent_dropout: float = 0.5,
        latent_dropout_epochs: int = 2,
        guidance_weight: float = 1.0,
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
        checks = {
            "commitment_weight must not be negative": commitment_weight >= 0,
            "latent_dropout must lie between 0 and 1": 0 <= latent_dropout <= 1,
            "latent_dropout_epochs must not be negative": latent_dropout_epochs >= 0,
        }
        broken = [rule for rule, holds in checks.items() if not holds]
        if broken:
            raise ValueError("; ".join(broken))
        self.commitment_weight = commitment_weight
        self.latent_dropout = latent_dropout
        self.latent_dropout_epochs = latent_dropout_epochs
        self.guidance_weight = guidance_weight

    def loss(self, batch: dict[str, Tensor], context: Context) -> dict[str, Tensor]:
        """Return the losses without a teacher: the prior learns the posterior's own tokens."""
        return self.losses(batch, context)[0]

    def losses(
        self, batch: dict[str, Tensor], context: Context, teacher: Callable[..., Tensor] | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return the losses, and the posterior's tokens `(B, n, D)` without their gradient.

        `total` is velocity + ot_weight · Sinkhorn + commitment_weight · posterior_codebook + prior, where
        velocity is the squared error summed over a chunk, and prior the squared distance of the prior's
        tokens from the teacher's, of which only the prior learns.

        Args:
            batch: normalized; `action (B, S, A)`, `action_is_pad (B, S)`, state and cameras.
            context: noise, times and the epoch.
            teacher: called like the posterior.
        """
        memory, head = self._observe(batch)
        posterior = self.call("vqvae_posterior", **head, action=batch["action"])
        own = posterior.detach()
        # What the prior is told comes without gradients, so that its loss is nobody else's.
        prior = self.call("vqvae_prior", **{k: v.detach() for k, v in head.items()}, action=None)
        found = self.call("vqvae_codebook", continuous_vec=posterior, train=True, replacement=False)
        latent = substitute_noise(posterior.float(), found["q"].float(), context.random)
        if context.training:
            kept = context.random.bernoulli(1 - self._dropout(context.epoch), (latent.shape[0], 1, 1))
            latent = latent * kept
        flow = self.sample_flow(batch, context)
        time, points = with_start(flow)
        velocity, start = self._velocity(time, points, twice(memory), twice(latent)).chunk(2)
        numbers = self.action_shape[0] * self.action_shape[1]
        losses = {
            "velocity": numbers * self.action_error((velocity - flow.velocity).square(), batch),
            "posterior_codebook": _per_vector(posterior, found["q"].detach()),
        }
        total = losses["velocity"] + self.commitment_weight * losses["posterior_codebook"]
        if self.transport_loss is not None:
            losses["Sinkhorn"] = self.transport(flow.noise + start, batch)
            total = total + self.ot_weight * losses["Sinkhorn"]
        losses["True_prior_posterior"] = to_learn = _per_vector(prior, own)
        if teacher is not None:
            with torch.no_grad():
                wanted = teacher(**head, action=batch["action"])
            losses["EMA_prior_posterior"] = to_learn = _per_vector(prior, wanted)
        distances = {name: found[name] for name in ("codebook_min_dist", "codebook_max_dist")}
        return {"total": total + to_learn, **losses, **distances}, own

    def predict_action(self, observation: dict[str, Tensor], context: Context) -> Tensor:
        """Return an action chunk `(B, S, A)`, normalized."""
        memory, head = self._observe(observation)
        prior = self.call("vqvae_prior", **head, action=None)
        latent = self.call("vqvae_codebook", continuous_vec=prior, train=False, replacement=False)["q"]
        weight = self.guidance_weight
        if weight in (0.0, 1.0):
            latent = latent * weight
            return self.follow(
                lambda time, x: self._velocity(time, x, memory, latent), memory.shape[0], context
            )
        both, latents = twice(memory), torch.cat([latent, torch.zeros_like(latent)])

        def guided(time: Tensor, x: Tensor) -> Tensor:
            guide, free = self._velocity(twice(time), twice(x), both, latents).float().chunk(2)
            return free + weight * (guide - free)

        return self.follow(guided, memory.shape[0], context)

    def _dropout(self, epoch: int) -> float:
        """Return the share of samples without latents in an epoch, counted from 0."""
        reached = min(epoch / self.latent_dropout_epochs, 1.0) if self.latent_dropout_epochs else 1.0
        return self.latent_dropout * reached

    def _observe(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return all conditions as tokens `(B, L, D)`, and what posterior and prior read of the head."""
        frames = camera_frames(batch, self.cameras)
        features, semantics = self.camera_features(frames)
        state = batch[STATE]
        seen = self.call("proprio_projector", cond_proprio=state, cond_visual=torch.stack(features, dim=1))
        memory = torch.cat([*self.depth_tokens(frames[:1], DEPTH_LAYERS), seen], dim=1)
        head = {"cond_proprio": state, "cond_visual": features[0][:, None], "cond_semantic": semantics[0]}
        return memory, head

    def _velocity(self, time: Tensor, point: Tensor, memory: Tensor, latent: Tensor) -> Tensor:
        velocity: Tensor = self.call(
            "action_decoder", time=time, noise=point, memory_input=memory, discrete_semantic_input=latent
        )
        return velocity


def substitute_noise(vectors: Tensor, codes: Tensor, random: Random) -> Tensor:
    """Return vectors plus noise as long as their quantisation error: z + n · ‖z − q‖ with ‖n‖ = 1.

    The gradient reaches both, the codes through the length.

    Args:
        vectors: z `(B, n, D)`, float32.
        codes: q, the code vectors nearest to them.
        random: where the direction of the noise comes from.
    """
    noise = random.normal(tuple(vectors.shape))
    direction = noise / noise.norm(dim=-1, keepdim=True)
    return vectors + direction * (vectors - codes).norm(dim=-1, keepdim=True)


def _per_vector(one: Tensor, other: Tensor) -> Tensor:
    """Return the squared distance of vectors `(…, D)`, averaged over them."""
    return (one.float() - other.float()).square().sum(dim=-1).mean()
