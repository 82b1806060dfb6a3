"""A trainer with two phases: an actor that imitates, a critic that tells its chunks from demonstrated ones.

The actor minimises `error + weight · softplus(-D)`, the critic `softplus(-D(real)) + softplus(D(actor's))`,
the non-saturating losses of Goodfellow et al., "Generative Adversarial Nets" (2014). Add
`examples.extensions.adversarial` to `plugins`, set `train.trainer.type` to `adversarial_trainer`, and give
three components: `observation_encoder` (observations → `(B, C)`), `action_head` (`(B, C)` → `(B, S, A)`) and
`critic` (graph inputs `chunk (B, S, A)` and `condition (B, C)` → `(B, 1)`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from trainer.engine.policy_trainer import PolicyTrainer, register_policy
from trainer.engine.update import Update
from trainer.modeling.observations import encoder_arguments
from trainer.templates import Context, Policy


class AdversarialTrainer(PolicyTrainer):
    """Updates the critic in every step, and the actor against it in every so many.

    Args:
        policy: an `AdversarialPolicy`.
        update: what turns losses into new weights.
        critic_updates: updates of the critic for one of the actor.
    """

    def __init__(self, policy: Any, update: Update, critic_updates: int = 1) -> None:
        super().__init__(policy, update)
        if critic_updates < 1:
            raise ValueError(f"critic_updates is {critic_updates}, but at least 1 is needed")
        self.critic_updates = critic_updates

    def train_step(self, data: dict[str, Any], context: Context) -> dict[str, Any]:
        """Learn from one micro-batch; each phase changes its own components only."""
        self.update.begin(context, ("critic",))
        critic = self.policy.critic_loss(data)
        self.update.backward(critic)
        metrics = {"critic": critic.detach(), **self.update.finish()}
        if context.step % self.critic_updates:
            return metrics
        self.update.begin(context, ("observation_encoder", "action_head"))
        losses = self.policy.loss(data, context)
        self.update.backward(losses["total"])
        return metrics | {name: value.detach() for name, value in losses.items()} | self.update.finish()


@register_policy("adversarial_trainer", AdversarialTrainer)
class AdversarialPolicy(Policy):
    """Predicts one action chunk.

    Args:
        components: the three components.
        loss: the module of `train.loss`, called with prediction and target; mean squared error without one.
        weight: of the critic's opinion in the actor's loss.
        n_action_steps: actions of a chunk that are executed.
    """

    def __init__(
        self,
        components: nn.ModuleDict,
        loss: nn.Module | None = None,
        weight: float = 0.1,
        n_action_steps: int = 8,
    ) -> None:
        super().__init__()
        self.components = components
        self.criterion = loss or nn.MSELoss()
        self.weight = weight
        self.n_action_steps = n_action_steps

    def loss(self, batch: dict[str, Tensor], context: Context) -> dict[str, Tensor]:
        """Return the actor's `total` and its parts."""
        condition = self._condition(batch)
        chunk = self.components["action_head"](condition)
        error = self.criterion(chunk, batch["action"])
        doubt = softplus(-self.components["critic"](chunk=chunk, condition=condition)).mean()
        return {"total": error + self.weight * doubt, "error": error, "doubt": doubt}

    def critic_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the loss of the critic; the actor is taken as it is."""
        with torch.no_grad():
            condition = self._condition(batch)
            chunk = self.components["action_head"](condition)
        # Both in one call: among several ranks a component is called once for each time that it learns.
        both, twice = torch.cat([batch["action"], chunk]), torch.cat([condition, condition])
        real, made = self.components["critic"](chunk=both, condition=twice).chunk(2)
        return softplus(-real).mean() + softplus(made).mean()

    def predict_action(self, observation: dict[str, Tensor], context: Context) -> Tensor:
        """Return the chunk `(B, S, A)`; nothing is drawn."""
        chunk: Tensor = self.components["action_head"](self._condition(observation))
        return chunk

    def _condition(self, batch: dict[str, Tensor]) -> Tensor:
        encoder = self.components["observation_encoder"]
        condition: Tensor = encoder(**encoder_arguments(encoder, batch))
        return condition
