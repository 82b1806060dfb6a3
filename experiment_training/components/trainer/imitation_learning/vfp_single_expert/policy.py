"""A flow-matching policy of one expert, whose three cameras have a backbone each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from experiment_training.components.trainer.imitation_learning.camera_flow import (
    CAMERAS,
    STATE,
    CameraFlowPolicy,
    as_tokens,
    camera_frames,
    drop_cameras,
    latent_distance,
)
from experiment_training.components.trainer.imitation_learning.chunk_policy import check_needed
from experiment_training.components.trainer.imitation_learning.flow_matching import IntegrationMethod
from trainer.templates import Context
from trainer.utils.log import log

BACKBONES = ("head_backbone", "left_backbone", "right_backbone")
LATENT = ("vae_posterior", "vae_prior")


class VFPSingleExpertPolicy(CameraFlowPolicy):
    """Draws action chunks by following a learned flow from noise.

    Components: `head_backbone`, `left_backbone`, `right_backbone` (image → features, semantics), those of the
    cameras that there are; `info_embedder` (all conditions → `encoder_output`), `action_decoder` (the
    velocity).

    With `use_latent` also `vae_posterior` and `vae_prior`: tokens of actions and conditions, and of
    conditions alone (Zhai et al. 2025, "VFP: Variational Flow-Matching Policy for Multi-Modal Robot
    Manipulation"). A latent is drawn from a normal distribution of variance 1 around the posterior's tokens
    in training, around the prior's on a robot; the decoder, made with `use_cond_semantic: true`, reads it.
    `kl`, twice the divergence of the two per dimension, pulls them together.

    Args:
        components: those above.
        loss: without effect.
        camera_dropout: probability that a sample of training sees one of its cameras black.
        use_latent: condition the flow on latent tokens.
        kl_weight: weight of `kl`, with `use_latent` only.

    The other arguments are those of `CameraFlowPolicy`. Configurations of an earlier version give a loss;
    that it has no effect is said.

    Raises:
        ValueError: a component is missing, or a number is out of range.
    """

    needs: ClassVar[tuple[str, ...]] = ("info_embedder", "action_decoder")

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
        camera_dropout: float = 0.15,
        use_latent: bool = False,
        kl_weight: float | None = None,
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
        if loss is not None:
            log.warning(f"train.loss has no effect: {type(self).__name__} has its own loss.")
        if len(cameras) > len(BACKBONES):
            raise ValueError(f"cameras may name the head's, the left and the right one, not {list(cameras)}")
        self.backbones = BACKBONES[: len(cameras)]
        check_needed(components, self.backbones, type(self).__name__)
        if not 0 <= camera_dropout <= 1:
            raise ValueError(f"camera_dropout must lie between 0 and 1, it is {camera_dropout}")
        if use_latent:
            check_needed(components, LATENT, f"{type(self).__name__} with use_latent")
        elif kl_weight is not None:
            raise ValueError("kl_weight has no effect without use_latent")
        self.camera_dropout = camera_dropout
        self.use_latent = use_latent
        self.kl_weight = 1.0 if kl_weight is None else kl_weight

    def loss(self, batch: dict[str, Tensor], context: Context) -> dict[str, Tensor]:
        """Return `total`, `velocity`, the error of the velocity, and with `use_latent` `kl`.

        Args:
            batch: normalized; `action (B, S, A)`, `action_is_pad (B, S)`, state and cameras.
            context: noise and times.
        """
        frames = camera_frames(batch, self.cameras)
        if context.training:
            frames = drop_cameras(frames, self.camera_dropout, context.random)
        visual, semantic = self._see(frames)
        flow = self.sample_flow(batch, context)
        latent, losses = None, {}
        if self.use_latent:
            posterior = self._latent("vae_posterior", batch, visual, semantic, batch["action"])
            prior = self._latent("vae_prior", batch, visual, semantic)
            losses["kl"] = latent_distance(posterior, prior)
            latent = posterior + context.random.normal(tuple(posterior.shape))
        memory = self._memory(batch, frames, visual, semantic)
        velocity = self._velocity(flow.time, flow.point, memory, latent)
        losses["velocity"] = self.action_error(self._penalty(velocity - flow.velocity), batch)
        total = losses["velocity"]
        if self.use_latent:
            total = total + self.kl_weight * losses["kl"]
        return {"total": total, **losses}

    def predict_action(self, observation: dict[str, Tensor], context: Context) -> Tensor:
        """Return an action chunk `(B, S, A)`, normalized."""
        frames = camera_frames(observation, self.cameras)
        visual, semantic = self._see(frames)
        memory = self._memory(observation, frames, visual, semantic)
        latent = None
        if self.use_latent:
            prior = self._latent("vae_prior", observation, visual, semantic)
            latent = prior + context.random.normal(tuple(prior.shape))
        return self.follow(lambda time, x: self._velocity(time, x, memory, latent), memory.shape[0], context)

    def _penalty(self, error: Tensor) -> Tensor:
        return error.square()

    def _see(self, frames: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return tokens `(B, h·w, C)` and semantics `(B, 1, F)` of every camera."""
        seen = [self.call(name, image=frame) for name, frame in zip(self.backbones, frames, strict=True)]
        return [as_tokens(features) for features, _ in seen], [semantic[:, None] for _, semantic in seen]

    def _visual(self, frames: Sequence[Tensor], visual: Sequence[Tensor]) -> list[Tensor]:
        """Return the visual sources of the embedder, in its order."""
        return list(visual)

    def _memory(
        self,
        batch: dict[str, Tensor],
        frames: Sequence[Tensor],
        visual: Sequence[Tensor],
        semantic: Sequence[Tensor],
    ) -> Tensor:
        memory: Tensor = self.call(
            "info_embedder",
            cond_proprio=batch[STATE],
            cond_visual=self._visual(frames, visual),
            cond_semantic=list(semantic),
            action=None,
        )["encoder_output"]
        return memory

    def _latent(
        self,
        name: str,
        batch: dict[str, Tensor],
        visual: Sequence[Tensor],
        semantic: Sequence[Tensor],
        action: Tensor | None = None,
    ) -> Tensor:
        latent: Tensor = self.call(
            name,
            cond_proprio=batch[STATE],
            cond_visual=visual[0],
            cond_semantic=semantic[0][:, 0],
            action=action,
        )
        return latent

    def _velocity(self, time: Tensor, point: Tensor, memory: Tensor, latent: Tensor | None) -> Tensor:
        velocity: Tensor = self.call(
            "action_decoder", time=time, noise=point, memory_input=memory, discrete_semantic_input=latent
        )
        return velocity


class VFPSingleExpertDepthPolicy(VFPSingleExpertPolicy):
    """`VFPSingleExpertPolicy` that also sees the depth of the head camera; its error is the absolute one.

    Components: `da3` beside those there.
    """

    needs = (*VFPSingleExpertPolicy.needs, "da3")
    depth_layers = (18, 12)

    def _penalty(self, error: Tensor) -> Tensor:
        return error.abs()

    def _visual(self, frames: Sequence[Tensor], visual: Sequence[Tensor]) -> list[Tensor]:
        head, *others = visual
        return [head, *self.depth_tokens(frames[:1], self.depth_layers), *others]
