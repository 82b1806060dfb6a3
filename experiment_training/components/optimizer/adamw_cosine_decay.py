"""AdamW with a linear warm-up and a cosine decay that lives inside the optimizer."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from trainer.registry import OPTIMIZER_BUILDER_REGISTRY


def warmup_cosine(step: int, *, peak: float, start: float, end: float, warmup: int, total: int) -> float:
    """Return the learning rate of update `step` (from 0).

    With W = `warmup` and N = `total` - W: linear from `start` (update 0) to `peak` (update W - 1), then
    end + (peak - end)·(1 + cos(π·(step - W)/(N - 1)))/2, so that updates W - 1 and W use `peak`, and update
    total - 1 and all later ones use `end`.
    """
    step = min(max(step, 0), total - 1)
    if step < warmup:
        return start if warmup == 1 else start + (peak - start) * step / (warmup - 1)
    decay = total - warmup
    if decay == 1:
        return end
    return end + (peak - end) * 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / (decay - 1)))


class WarmupCosineLR(torch.optim.lr_scheduler.LRScheduler):
    """Sets the learning rates of `warmup_cosine`; groups keep their ratio to the first one.

    Args:
        optimizer: its groups' learning rates are the peaks.
        total_steps: number of updates of the run.
        warmup_steps: updates of the warm-up.
        start_lr: rate of update 0.
        end_lr: rate of the last update.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        total_steps: int,
        warmup_steps: int,
        start_lr: float,
        end_lr: float,
    ) -> None:
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps
        self.start_lr = start_lr
        self.end_lr = end_lr
        super().__init__(optimizer)

    def get_lr(self) -> list[float | torch.Tensor]:
        """Return the rate of every group for the coming update."""
        first = float(self.base_lrs[0])
        rates: list[float | torch.Tensor] = []
        for peak in self.base_lrs:
            scale = float(peak) / first
            rate = warmup_cosine(
                self.last_epoch,
                peak=float(peak),
                start=self.start_lr * scale,
                end=self.end_lr * scale,
                warmup=self.warmup_steps,
                total=self.total_steps,
            )
            rates.append(rate)
        return rates


class AdamWWithWarmupCosine(torch.optim.AdamW):
    """AdamW whose `step` also advances its schedule, and whose state holds both."""

    def __init__(self, params: Any, *, schedule: dict[str, Any], **adamw: Any) -> None:
        super().__init__(params, **adamw)
        self.scheduler = WarmupCosineLR(self, **schedule)

    def step(self, closure: Any = None) -> Any:
        """Make one update and move on in the schedule."""
        result = super().step(closure)
        # The scheduler replaces `step` by a counting wrapper; this class calls it for the user.
        self.scheduler.step()
        return result

    def state_dict(self) -> dict[str, Any]:
        """Return AdamW's state with the key `scheduler` added."""
        schedule = self.scheduler.state_dict() if hasattr(self, "scheduler") else None
        return {**super().state_dict(), "scheduler": schedule}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load AdamW's state, and the schedule's where it is there."""
        state = dict(state_dict)
        schedule = state.pop("scheduler", None)
        super().load_state_dict(state)
        if schedule is not None:
            self.scheduler.load_state_dict(schedule)


@OPTIMIZER_BUILDER_REGISTRY.register("adamw_warmup_cosine_decay")
class AdamWWarmupCosineBuilder:
    """Builds `AdamWWithWarmupCosine`.

    Args:
        peak_lr: highest learning rate, > 0.
        betas: decay of the two moments.
        eps: > 0.
        weight_decay: decoupled, ≥ 0.
        total_steps: updates after which `end_lr` is reached; the length of the run if not given.
        warmup_steps: updates of the linear warm-up, ≥ 0 and fewer than `total_steps`.
        start_lr: rate of update 0, between 0 and `peak_lr`.
        end_lr: rate at the end, between 0 and `peak_lr`.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(
        self,
        peak_lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        total_steps: int | None = None,
        warmup_steps: int = 0,
        start_lr: float = 0.0,
        end_lr: float = 0.0,
    ) -> None:
        checks = {
            "peak_lr must be greater than 0": peak_lr > 0,
            "start_lr must lie between 0 and peak_lr": 0 <= start_lr <= peak_lr + 1e-12,
            "end_lr must lie between 0 and peak_lr": 0 <= end_lr <= peak_lr + 1e-12,
            "eps must be greater than 0": eps > 0,
            "weight_decay must not be negative": weight_decay >= 0,
            "warmup_steps must not be negative": warmup_steps >= 0,
            "total_steps must be greater than 0": total_steps is None or total_steps > 0,
        }
        broken = [rule for rule, holds in checks.items() if not holds]
        if broken:
            raise ValueError("; ".join(broken))
        self.adamw = {"lr": peak_lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        self.schedule = {"warmup_steps": warmup_steps, "start_lr": start_lr, "end_lr": end_lr}
        self.total_steps = total_steps

    def build(
        self, params: Iterable[nn.Parameter] | Iterable[dict[str, Any]], total_steps: int | None = None
    ) -> AdamWWithWarmupCosine:
        """Build the optimizer.

        Args:
            params: parameters or groups.
            total_steps: length of the run, used where the configuration gives none.

        Raises:
            ValueError: the warm-up is not shorter than the run, or its length is unknown.
        """
        total = self.total_steps or total_steps
        if total is None:
            raise ValueError("total_steps is needed: the length of the run is not known here")
        if self.schedule["warmup_steps"] >= total:
            raise ValueError(
                f"warmup_steps {self.schedule['warmup_steps']} must be fewer than {total} updates"
            )
        parameters = list(params)
        # One kernel for all parameters where torch has it for this device; the numbers are the same.
        return AdamWWithWarmupCosine(
            parameters, schedule={"total_steps": total, **self.schedule}, fused=True, **self.adamw
        )
