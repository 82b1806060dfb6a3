"""A flow-matching policy on the features and depths of all cameras."""

from __future__ import annotations

import torch
from torch import Tensor

from experiment_training.components.trainer.imitation_learning.camera_flow import (
    STATE,
    CameraFlowPolicy,
    as_tokens,
    camera_frames,
)
from trainer.templates import Context

DEPTH_LAYERS = (18, 23)


class NaiveFlowMatchingPolicy(CameraFlowPolicy):
    """Draws action chunks by following a learned flow from noise.

    Components: `backbone` (image → features, semantics), `da3` (depth features), `info_embedder` (all
    conditions → `encoder_output`), `action_decoder` (the velocity). Other components, such as hand
    extractors, are never called. Arguments are those of `CameraFlowPolicy`.
    """

    needs = ("backbone", "da3", "info_embedder", "action_decoder")

    def loss(self, batch: dict[str, Tensor], context: Context) -> dict[str, Tensor]:
        """Return `total`, the mean squared error of the velocity, which is also logged as `velocity`.

        Args:
            batch: normalized; `action (B, S, A)`, `action_is_pad (B, S)`, state and cameras.
            context: noise and times.
        """
        flow = self.sample_flow(batch, context)
        velocity = self._velocity(flow.time, flow.point, self._memory(batch))
        error = self.action_error((velocity - flow.velocity).square(), batch)
        return {"total": error, "velocity": error}

    def predict_action(self, observation: dict[str, Tensor], context: Context) -> Tensor:
        """Return an action chunk `(B, S, A)`, normalized."""
        memory = self._memory(observation)
        return self.follow(lambda time, x: self._velocity(time, x, memory), memory.shape[0], context)

    def _velocity(self, time: Tensor, point: Tensor, memory: Tensor) -> Tensor:
        velocity: Tensor = self.call(
            "action_decoder", time=time, noise=point, memory_input=memory, discrete_semantic_input=None
        )
        return velocity

    def _memory(self, batch: dict[str, Tensor]) -> Tensor:
        """Return all conditions as tokens `(B, L, D)`."""
        frames = camera_frames(batch, self.cameras)
        features, semantics = self.camera_features(frames)
        depth = self.depth_tokens(frames, DEPTH_LAYERS)
        pairs = zip(features, depth, strict=True)
        memory: Tensor = self.call(
            "info_embedder",
            cond_proprio=batch[STATE],
            cond_visual=torch.cat([part for seen, deep in pairs for part in (as_tokens(seen), deep)], dim=1),
            cond_semantic=torch.stack(semantics, dim=1),
            action=None,
        )["encoder_output"]
        return memory
