"""Plain regression of action chunks with the networks of state flow matching."""

from __future__ import annotations

import torch
from torch import Tensor

from experiment_training.components.trainer.imitation_learning.chunk_policy import ChunkPolicy
from experiment_training.components.trainer.imitation_learning.flow_matching import chunk_error
from trainer.templates import Context


class RegressionPolicy(ChunkPolicy):
    """Predicts the mean action chunk: behaviour cloning with a squared error.

    The components are those of state flow matching, so that the two differ in their objective alone: the
    decoder always sees time 0 and zeros where a flow has its noise, and its output is the action itself.

    Components: `observation_encoder` returns a condition `(B, C)`; `velocity_decoder` takes `time (B,),
    noise (B, S, A), condition` and returns the action chunk `(B, S, A)`.
    """

    method = "regression"

    def loss(self, batch: dict[str, Tensor], context: Context) -> dict[str, Tensor]:
        """Return `total`, the mean squared error ‖π(o) − a‖² / (S·A).

        Args:
            batch: normalized; `action (B, S, A)`, `action_is_pad (B, S)` and the encoder's observations.
            context: not needed.
        """
        error = (self._predict(batch) - batch["action"]).square()
        return {"total": chunk_error(error, self.left_out(batch), batch.get("action_dim_is_pad"))}

    def predict_action(self, observation: dict[str, Tensor], context: Context) -> Tensor:
        """Return an action chunk `(B, S, A)`, normalized."""
        return self._predict(observation)

    def _predict(self, batch: dict[str, Tensor]) -> Tensor:
        condition = self.condition(batch)
        zeros = torch.zeros(condition.shape[0], *self.action_shape, device=condition.device)
        chunk: Tensor = self.components["velocity_decoder"](
            time=zeros[:, 0, 0], noise=zeros, condition=condition
        )
        return chunk
