"""The minimal iterative policy (MIP) with the networks of state flow matching."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from experiment_training.components.trainer.imitation_learning.chunk_policy import ChunkPolicy
from experiment_training.components.trainer.imitation_learning.flow_matching import chunk_error
from trainer.templates import Context


class MIPPolicy(ChunkPolicy):
    """Predicts an action chunk, and then once more from a noisy version of it, both supervised.

    Pan et al. 2025, "Much Ado About Noising: Dispelling the Myths of Generative Robotic Control". With noise
    z and I = t*·a + (1 − t*)·z the loss is ‖π(o, 0, 0) − a‖² + ‖π(o, I, t*) − a‖², and a robot executes
    π(o, t*·π(o, 0, 0), t*): nothing is drawn when acting.

    Components: `observation_encoder` returns a condition `(B, C)`; `velocity_decoder` takes `time (B,),
    noise (B, S, A), condition` and returns the action chunk `(B, S, A)`.

    Args:
        components: the two components.
        action_horizon: S, the length of a chunk.
        action_dim: A.
        n_action_steps: how many actions of a chunk are executed before the next one is asked for.
        t_star: t*, between 0 and 1: the share of the action in what the second step sees.
        train_on_padding: whether steps beyond the episode, where its first or last action is repeated, count
            in the loss.

    Raises:
        ValueError: a component is missing, or a number is out of range.
    """

    method = "MIP"

    def __init__(
        self,
        components: nn.ModuleDict,
        *,
        action_horizon: int,
        action_dim: int,
        n_action_steps: int = 8,
        t_star: float = 0.9,
        train_on_padding: bool = False,
    ) -> None:
        super().__init__(
            components,
            action_horizon=action_horizon,
            action_dim=action_dim,
            n_action_steps=n_action_steps,
            train_on_padding=train_on_padding,
        )
        if not 0 < t_star < 1:
            raise ValueError(f"t_star is {t_star}, but it must lie between 0 and 1")
        self.t_star = t_star

    def loss(self, batch: dict[str, Tensor], context: Context) -> dict[str, Tensor]:
        """Return `total` and its two parts, `first_step` and `second_step`.

        Args:
            batch: normalized; `action (B, S, A)`, `action_is_pad (B, S)` and the encoder's observations.
            context: noise.
        """
        action = batch["action"]
        noise = context.random.normal(tuple(action.shape))
        condition = self.condition(batch)
        # Both steps at once: one call of the decoder on twice the batch.
        times = torch.tensor([0.0, self.t_star], device=action.device).repeat_interleave(len(action))
        seen = torch.cat([torch.zeros_like(action), torch.lerp(noise, action, self.t_star)])
        chunks = self._decode(times, seen, condition.repeat(2, *[1] * (condition.ndim - 1))).chunk(2)
        losses = [
            chunk_error((chunk - action).square(), self.left_out(batch), batch.get("action_dim_is_pad"))
            for chunk in chunks
        ]
        return {"total": losses[0] + losses[1], "first_step": losses[0], "second_step": losses[1]}

    def predict_action(self, observation: dict[str, Tensor], context: Context) -> Tensor:
        """Return an action chunk `(B, S, A)`, normalized."""
        condition = self.condition(observation)
        zeros = torch.zeros(condition.shape[0], *self.action_shape, device=condition.device)
        first = self._decode(zeros[:, 0, 0], zeros, condition).to(zeros.dtype)
        times = torch.full((len(zeros),), self.t_star, device=zeros.device)
        return self._decode(times, self.t_star * first, condition)

    def _decode(self, time: Tensor, seen: Tensor, condition: Tensor) -> Tensor:
        chunk: Tensor = self.components["velocity_decoder"](time=time, noise=seen, condition=condition)
        return chunk
