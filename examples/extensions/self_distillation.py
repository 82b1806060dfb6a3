"""A policy with a buffer of its own, and a trainer with an EMA teacher.

The student's condition of a noisy observation should be the teacher's of the clean one (mean teachers,
Tarvainen & Valpola 2017). The teacher follows its component after every update, and is saved and resumed with
the run; so is the policy's buffer, by which the loss is divided. Add `examples.extensions.self_distillation`
to `plugins`, set `train.trainer.type` to `self_distillation_trainer`, and give the components
`observation_encoder` (observations → `(B, C)`) and `action_head` (`(B, C)` → `(B, S, A)`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from trainer.engine.policy_trainer import PolicyTrainer, register_policy
from trainer.engine.update import Update
from trainer.modeling.observations import encoder_arguments
from trainer.templates import Context, Policy


class SelfDistillationTrainer(PolicyTrainer):
    """Adds the distance from the teacher to the policy's loss.

    Args:
        policy: a `ScaledRegression`.
        update: what turns losses into new weights, and owns the teacher.
        teacher_decay: share of the teacher that an update keeps.
        noise: standard deviation of what is added to the student's observations.
    """

    def __init__(self, policy: Any, update: Update, teacher_decay: float = 0.99, noise: float = 0.1) -> None:
        super().__init__(policy, update)
        self.teacher = update.shadow("observation_encoder", teacher_decay)
        self.noise = noise

    def train_step(self, data: dict[str, Any], context: Context) -> dict[str, Any]:
        """Learn from one micro-batch."""
        self.update.begin(context)
        student = self.policy.components["observation_encoder"]
        clean = encoder_arguments(student, data)
        noisy = {k: v + self.noise * context.random.normal(tuple(v.shape)) for k, v in clean.items()}
        with torch.no_grad():
            wanted = self.teacher(**clean)
        condition = student(**noisy)
        losses = self.policy.losses(condition, data, context)
        losses["consistency"] = mse_loss(condition, wanted)
        losses["total"] = losses["total"] + losses["consistency"]
        self.update.backward(losses["total"])
        return {**{name: value.detach() for name, value in losses.items()}, **self.update.finish()}


@register_policy("self_distillation_trainer", SelfDistillationTrainer)
class ScaledRegression(Policy):
    """Predicts one chunk; its squared error is divided by a running mean of itself, a buffer.

    Args:
        components: the two components.
        memory: share of the running mean that a step keeps.
        n_action_steps: actions of a chunk that are executed.
    """

    typical: Tensor

    def __init__(
        self,
        components: nn.ModuleDict,
        memory: float = 0.99,
        n_action_steps: int = 8,
    ) -> None:
        super().__init__()
        self.components = components
        self.memory = memory
        self.n_action_steps = n_action_steps
        self.register_buffer("typical", torch.ones(()))

    def losses(self, condition: Tensor, batch: dict[str, Tensor], context: Context) -> dict[str, Tensor]:
        """Return `total` and the `error` that it stands for, for conditions `(B, C)`."""
        error = mse_loss(self.components["action_head"](condition), batch["action"])
        if context.training:
            self.typical.lerp_(error.detach(), 1 - self.memory)
        return {"total": error / self.typical, "error": error}

    def loss(self, batch: dict[str, Tensor], context: Context) -> dict[str, Tensor]:
        """Return the losses without a teacher, as validation wants them."""
        return self.losses(self._condition(batch), batch, context)

    def predict_action(self, observation: dict[str, Tensor], context: Context) -> Tensor:
        """Return the chunk `(B, S, A)`; nothing is drawn."""
        chunk: Tensor = self.components["action_head"](self._condition(observation))
        return chunk

    def _condition(self, batch: dict[str, Tensor]) -> Tensor:
        encoder = self.components["observation_encoder"]
        condition: Tensor = encoder(**encoder_arguments(encoder, batch))
        return condition
