"""A policy and its trainer in thirty lines: plain regression of action chunks, the baseline of flow matching.

Use it by adding `examples.extensions.state_regression` to `plugins`, setting `train.trainer.type` to
`state_regression_trainer`, and giving a component `action_head` that maps the condition to `(B, S, A)`.
"""

from __future__ import annotations

from torch import Tensor, nn

from trainer.engine.policy_trainer import register_policy
from trainer.modeling.observations import encoder_arguments
from trainer.templates import Context, Policy


@register_policy("state_regression_trainer")
class StateRegressionPolicy(Policy):
    """Predicts the mean action chunk.

    Args:
        components: `observation_encoder` (observations → `(B, C)`) and
            `action_head` (`(B, C)` → `(B, S, A)`).
        loss: the module of `train.loss`, called with prediction and target; mean squared error without one.
        n_action_steps: actions of a chunk that are executed.
    """

    def __init__(
        self, components: nn.ModuleDict, loss: nn.Module | None = None, n_action_steps: int = 8
    ) -> None:
        super().__init__()
        self.components = components
        self.criterion = loss or nn.MSELoss()
        self.n_action_steps = n_action_steps

    def loss(self, batch: dict[str, Tensor], context: Context) -> dict[str, Tensor]:
        """Return `total`."""
        return {"total": self.criterion(self.predict_action(batch, context), batch["action"])}

    def predict_action(self, observation: dict[str, Tensor], context: Context) -> Tensor:
        """Return the chunk `(B, S, A)`; nothing is drawn."""
        encoder = self.components["observation_encoder"]
        chunk: Tensor = self.components["action_head"](encoder(**encoder_arguments(encoder, observation)))
        return chunk
