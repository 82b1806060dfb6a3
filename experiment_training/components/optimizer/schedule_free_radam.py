"""RAdam without a schedule: the weights to deploy are an average that the optimizer keeps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from trainer.registry import OPTIMIZER_BUILDER_REGISTRY


@OPTIMIZER_BUILDER_REGISTRY.register("schedule_free_radam")
class RAdamScheduleFreeFactory:
    """Builds `schedulefree.RAdamScheduleFree` (Defazio et al. 2024, "The Road Less Scheduled").

    The trainer calls its `train()` before each step; checkpoints and evaluations get what `eval()` gives.

    Args:
        lr: learning rate, > 0.
        betas: decay of the two moments.
        eps: > 0.
        weight_decay: ≥ 0.
        silent_sgd_phase: leave the weights alone in the first updates, in which RAdam has no estimate of the
            second moment yet; otherwise these are updates of SGD.

    Raises:
        ValueError: a number is out of its range, or the library is not there.
    """

    def __init__(
        self,
        lr: float = 0.0025,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        silent_sgd_phase: bool = True,
    ) -> None:
        checks = {
            "lr must be greater than 0": lr > 0,
            "betas must lie between 0 and 1": all(0 < beta < 1 for beta in betas),
            "eps must be greater than 0": eps > 0,
            "weight_decay must not be negative": weight_decay >= 0,
        }
        broken = [rule for rule, holds in checks.items() if not holds]
        if broken:
            raise ValueError("; ".join(broken))
        self.settings = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "silent_sgd_phase": silent_sgd_phase,
        }

    def build(self, params: Iterable[nn.Parameter] | Iterable[dict[str, Any]]) -> torch.optim.Optimizer:
        """Build the optimizer.

        Raises:
            ValueError: the library is not there.
        """
        try:
            from schedulefree import RAdamScheduleFree
        except ImportError:
            raise ValueError(
                "schedule_free_radam needs the library schedulefree; pip install 'trainer-il[schedulefree]'"
            ) from None
        optimizer: torch.optim.Optimizer = RAdamScheduleFree(list(params), **self.settings)
        return optimizer
