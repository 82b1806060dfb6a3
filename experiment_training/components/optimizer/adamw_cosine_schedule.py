"""AdamW with torch's one-cycle schedule inside the optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from experiment_training.components.optimizer.scheduled_adamw import ScheduledAdamW
from trainer.registry import OPTIMIZER_BUILDER_REGISTRY


class HeldOneCycleLR(OneCycleLR):
    """`OneCycleLR` that keeps its last rate when a run is longer than the cycle, where torch's raises."""

    def get_lr(self) -> list[float | torch.Tensor]:
        """Return the rate of every group for the coming update."""
        reached = self.last_epoch
        self.last_epoch = min(reached, self.total_steps - 1)
        try:
            return super().get_lr()
        finally:
            self.last_epoch = reached


class AdamWWithOneCycle(ScheduledAdamW):
    """AdamW whose `step` also advances its one-cycle schedule, and whose state holds both."""

    settings = ("total_steps", "_schedule_phases")


@OPTIMIZER_BUILDER_REGISTRY.register("adamw_cosine_schedule")
class AdamWCosineScheduleBuilder:
    """Builds `AdamWWithOneCycle`.

    The rate rises from `max_lr / div_factor` to `max_lr` in the first `pct_start` of the updates and falls to
    `max_lr / (div_factor · final_div_factor)` (Smith & Topin 2019, "Super-Convergence").

    Args:
        max_lr: highest learning rate, > 0.
        lr: AdamW's own, which the schedule overrides from the first update on.
        betas: decay of the two moments.
        eps: > 0.
        weight_decay: decoupled, ≥ 0.
        total_steps: updates of the cycle; `epochs · steps_per_epoch`, or the length of the run, if not given.
        epochs: only with `steps_per_epoch`.
        steps_per_epoch: only with `epochs`.
        pct_start: share of the cycle that rises, between 0 and 1.
        anneal_strategy: `cos` or `linear`.
        cycle_momentum: also move the first beta, against the rate.
        base_momentum: lowest first beta.
        max_momentum: highest first beta.
        div_factor: > 0.
        final_div_factor: > 0.
        three_phase: fall to the first rate as long as it rose, and only then to the last one.
        last_epoch: updates before the first one, minus 1; a resumed run knows by itself.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(
        self,
        max_lr: float,
        lr: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        cycle_momentum: bool = True,
        base_momentum: float = 0.85,
        max_momentum: float = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        checks = {
            "max_lr must be greater than 0": max_lr > 0,
            "lr must be greater than 0": lr is None or lr > 0,
            "eps must be greater than 0": eps > 0,
            "weight_decay must not be negative": weight_decay >= 0,
            "total_steps must be greater than 0": total_steps is None or total_steps > 0,
            "epochs and steps_per_epoch go together": (epochs is None) == (steps_per_epoch is None),
            "pct_start must lie between 0 and 1": 0 <= pct_start <= 1,
            "div_factor and final_div_factor must be greater than 0": min(div_factor, final_div_factor) > 0,
            "last_epoch must be -1": last_epoch == -1,
        }
        broken = [rule for rule, holds in checks.items() if not holds]
        if broken:
            raise ValueError("; ".join(broken))
        if total_steps is None and epochs is not None and steps_per_epoch is not None:
            total_steps = epochs * steps_per_epoch
        self.total_steps = total_steps
        self.adamw = {"lr": lr or max_lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        self.schedule: dict[str, Any] = {
            "max_lr": max_lr,
            "pct_start": pct_start,
            "anneal_strategy": anneal_strategy,
            "cycle_momentum": cycle_momentum,
            "base_momentum": base_momentum,
            "max_momentum": max_momentum,
            "div_factor": div_factor,
            "final_div_factor": final_div_factor,
            "three_phase": three_phase,
        }

    def build(
        self, params: Iterable[nn.Parameter] | Iterable[dict[str, Any]], total_steps: int | None = None
    ) -> AdamWWithOneCycle:
        """Build the optimizer.

        Args:
            params: parameters or groups.
            total_steps: length of the run, used where the configuration gives none.

        Raises:
            ValueError: the length of the run is unknown.
        """
        total = self.total_steps or total_steps
        if total is None:
            raise ValueError("total_steps is needed: the length of the run is not known here")
        return AdamWWithOneCycle(
            list(params),
            schedule=lambda optimizer: HeldOneCycleLR(optimizer, total_steps=total, **self.schedule),
            **self.adamw,
        )
