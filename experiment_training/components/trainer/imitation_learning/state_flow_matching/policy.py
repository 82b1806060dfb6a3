"""A flow-matching policy on low-dimensional observations."""

from __future__ import annotations

from torch import Tensor, nn

from experiment_training.components.trainer.imitation_learning.chunk_policy import ChunkPolicy
from experiment_training.components.trainer.imitation_learning.flow_matching import (
    IntegrationMethod,
    check_integration,
    chunk_error,
    integrate,
    sample_flow,
)
from trainer.templates import Context


class StateFlowMatchingPolicy(ChunkPolicy):
    """Draws action chunks by following a learned flow from noise.

    Components: `observation_encoder`, whose graph inputs are named after the observation features it wants
    (`state` takes `observation.state`), returns a condition `(B, C)`; `velocity_decoder` takes
    `time (B,), noise (B, S, A), condition` and returns the velocity `(B, S, A)`.

    Args:
        components: the two components.
        action_horizon: S, the length of a chunk.
        action_dim: A.
        n_action_steps: how many actions of a chunk are executed before the next one is drawn.
        integration_steps: steps from noise to action.
        integration_method: `euler`, `midpoint` (two evaluations a step) or `dopri5` (adaptive).
        train_on_padding: whether steps beyond the end of an episode, where the last action is repeated,
            count in the loss.

    Raises:
        ValueError: a component is missing, or a number is out of range.
    """

    method = "state flow matching"

    def __init__(
        self,
        components: nn.ModuleDict,
        *,
        action_horizon: int,
        action_dim: int,
        n_action_steps: int = 8,
        integration_steps: int = 10,
        integration_method: IntegrationMethod = "euler",
        train_on_padding: bool = False,
    ) -> None:
        super().__init__(
            components,
            action_horizon=action_horizon,
            action_dim=action_dim,
            n_action_steps=n_action_steps,
            train_on_padding=train_on_padding,
        )
        check_integration(integration_steps, integration_method)
        self.integration_steps = integration_steps
        self.integration_method = integration_method

    def loss(self, batch: dict[str, Tensor], context: Context) -> dict[str, Tensor]:
        """Return `total`, the mean squared error of the velocity.

        Args:
            batch: normalized; `action (B, S, A)`, `action_is_pad (B, S)` and the encoder's observations.
            context: noise and times.
        """
        flow = sample_flow(batch["action"], context.random)
        velocity = self.components["velocity_decoder"](
            time=flow.time, noise=flow.point, condition=self.condition(batch)
        )
        error = (velocity - flow.velocity).square()
        return {"total": chunk_error(error, self.left_out(batch), batch.get("action_dim_is_pad"))}

    def predict_action(self, observation: dict[str, Tensor], context: Context) -> Tensor:
        """Return an action chunk `(B, S, A)`, normalized."""
        condition = self.condition(observation)
        noise = context.random.normal((condition.shape[0], *self.action_shape))
        decoder = self.components["velocity_decoder"]
        return integrate(
            lambda time, x: decoder(time=time, noise=x, condition=condition),
            noise,
            self.integration_steps,
            self.integration_method,
        )
