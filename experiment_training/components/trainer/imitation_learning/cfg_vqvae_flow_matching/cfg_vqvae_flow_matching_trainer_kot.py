"""Trains the guided flow-matching policy: a teacher for its prior, new places for code vectors that idle."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from experiment_training.components.trainer.imitation_learning.cfg_vqvae_flow_matching.policy import (
    GuidedFlowMatchingPolicy,
)
from trainer.engine.policy_trainer import PolicyTrainer, register_policy
from trainer.engine.update import Update
from trainer.modeling.component import is_sharded, unwrap
from trainer.templates import Context
from trainer.templates.reduced import detached

CODEBOOK = "vqvae_codebook"
MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
ITERATE = "z"
"""What a schedule-free optimizer calls the weights that it steps from."""


class GuidedFlowMatchingTrainer(PolicyTrainer):
    """Trains the one `total` of the policy, and beside it what no gradient does.

    The prior learns what a moving average of the posterior says. At first, code vectors that no token of the
    last batch is nearest to are moved to some of these tokens, and what the optimizer remembers of them is
    forgotten.

    Args:
        policy: a `GuidedFlowMatchingPolicy`.
        update: what turns losses into new weights, and owns the teacher.
        teacher_decay: share of the posterior's average that an update keeps.
        reseed_every: updates between two looks at idle code vectors; 0 for none.
        reseed_epochs: epochs in which that is done.

    Raises:
        ValueError: a number is out of range, or the code vectors are spread over ranks.
    """

    def __init__(
        self,
        policy: Any,
        update: Update,
        teacher_decay: float = 0.999,
        reseed_every: int = 10,
        reseed_epochs: int = 1,
    ) -> None:
        super().__init__(policy, update)
        if reseed_every < 0 or reseed_epochs < 0:
            raise ValueError("reseed_every and reseed_epochs must not be negative")
        optimizer = update.optimizers.get(CODEBOOK)
        if reseed_every and optimizer is not None and is_sharded(optimizer):
            raise ValueError(
                "code vectors cannot be moved where ranks have a share of each; set train.parallel to ddp, "
                "or reseed_every to 0"
            )
        self.teacher = update.shadow("vqvae_posterior", teacher_decay)
        self.reseed_every = reseed_every
        self.reseed_epochs = reseed_epochs
        self._latents: Tensor | None = None
        self._replaced = 0
        update.after.append(self._reseed)

    def train_step(self, data: dict[str, Any], context: Context) -> dict[str, Any]:
        """Learn from one micro-batch; beside the usual, `num_vecs_replaced` is the number of moved codes."""
        self.update.begin(context)
        losses, latents = self.policy.losses(data, context, self.teacher)
        self.update.backward(losses["total"])
        due = self.reseed_every and context.step % self.reseed_every == 0
        self._latents = latents if due and context.epoch < self.reseed_epochs else None
        self._replaced = 0
        metrics = {**{name: detached(value) for name, value in losses.items()}, **self.update.finish()}
        return {**metrics, "num_vecs_replaced": self._replaced}

    @torch.no_grad()
    def _reseed(self, names: tuple[str, ...]) -> None:
        """Move idle code vectors, and forget what the optimizer remembers of them."""
        if self._latents is None or CODEBOOK not in names:
            return
        codebook = unwrap(self.policy.components[CODEBOOK])
        found = codebook(continuous_vec=self._latents, train=False, replacement=True)
        self._replaced = found["num_vecs_replaced"]
        optimizer = self.update.optimizers[CODEBOOK]
        for table in (m for m in codebook.modules() if isinstance(m, nn.Embedding)):
            forget_rows(optimizer, table.weight, found["dead_indices"])


def forget_rows(optimizer: torch.optim.Optimizer, weight: Tensor, rows: Tensor) -> None:
    """Let an optimizer take rows `(n,)` of a parameter for new: no moments, and steps from where they are."""
    state = optimizer.state.get(weight, {})
    for name in MOMENTS:
        if name in state:
            state[name][rows] = 0
    if ITERATE in state:
        state[ITERATE][rows] = weight[rows]


register_policy("cfg_vqvae_flow_matching_trainer_kot", GuidedFlowMatchingTrainer)(GuidedFlowMatchingPolicy)
