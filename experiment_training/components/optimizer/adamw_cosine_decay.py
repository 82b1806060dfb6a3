"""AdamW with a linear warm-up and a cosine decay that lives inside the optimizer."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import nn

from experiment_training.components.optimizer.scheduled_adamw import ScheduledAdamW
from trainer.registry import OPTIMIZER_BUILDER_REGISTRY


def warmup_cosine(
    step: int, *, peak: float, start: float, end: float, warmup: int, total: int, exponent: float = 1.0
) -> float:
    """Return the learning rate of update `step` (from 0).

    With W = `warmup` and N = `total` - W: linear from `start` (update 0) to `peak` (update W - 1), then
    end + (peak - end)·((1 + cos(π·(step - W)/(N - 1)))/2)^exponent, so that updates W - 1 and W use `peak`,
    and update total - 1 and all later ones use `end`.
    """
    step = min(max(step, 0), total - 1)
    if step < warmup:
        return start if warmup == 1 else start + (peak - start) * step / (warmup - 1)
    decay = total - warmup
    if decay == 1:
        return end
    falling = 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / (decay - 1)))
    return end + (peak - end) * (falling if exponent == 1.0 else falling**exponent)


class WarmupCosineLR(torch.optim.lr_scheduler.LRScheduler):
    """Sets the learning rates of `warmup_cosine`; groups keep their ratio to the first one.

    Args:
        optimizer: its groups' learning rates are the peaks.
        total_steps: number of updates of the run.
        warmup_steps: updates of the warm-up.
        start_lr: rate of update 0.
        end_lr: rate of the last update.
        exponent: of the falling cosine.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        total_steps: int,
        warmup_steps: int,
        start_lr: float,
        end_lr: float,
        exponent: float = 1.0,
    ) -> None:
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps
        self.start_lr = start_lr
        self.end_lr = end_lr
        self.exponent = exponent
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
                exponent=self.exponent,
            )
            rates.append(rate)
        return rates


class AdamWWithWarmupCosine(ScheduledAdamW):
    """AdamW whose `step` also advances its schedule, and whose state holds both."""

    settings = ("total_steps", "warmup_steps", "start_lr", "end_lr", "exponent")


@OPTIMIZER_BUILDER_REGISTRY.register("adamw_warmup_cosine_decay")
class AdamWWarmupCosineBuilder:
    """Builds `AdamWWithWarmupCosine`.

    Configurations of an earlier version describe the same schedule by `max_lr` and shares of it: the warm-up
    takes `pct_start` of the updates and begins at `max_lr / div_factor`; the end is
    `max_lr / (div_factor · final_div_factor)`, or `alpha · max_lr`.

    Args:
        peak_lr: highest learning rate, > 0.
        betas: decay of the two moments.
        eps: > 0.
        weight_decay: decoupled, ≥ 0.
        total_steps: updates after which `end_lr` is reached; the length of the run if not given.
        warmup_steps: updates of the linear warm-up, ≥ 0 and fewer than `total_steps`.
        start_lr: rate of update 0, between 0 and `peak_lr`.
        end_lr: rate at the end, between 0 and `peak_lr`.
        exponent: of the falling cosine, > 0.
        max_lr: `peak_lr` in the earlier way, in the place of `warmup_steps`, `start_lr` and `end_lr` too; the
            keys below belong to it.
        lr: without effect beside `max_lr`, which the schedule sets.
        epochs: with `steps_per_epoch`, another way to give `total_steps`.
        steps_per_epoch: see `epochs`.
        pct_start: share of the updates that warm up.
        warmup_strategy: only `linear`.
        div_factor: > 0.
        final_div_factor: > 0.
        alpha: rate at the end over `max_lr`.
        last_epoch: only -1; a resumed run knows by itself.

    Raises:
        ValueError: a number is missing or out of its range, or the two ways are mixed.
    """

    def __init__(
        self,
        peak_lr: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        total_steps: int | None = None,
        warmup_steps: int | None = None,
        start_lr: float | None = None,
        end_lr: float | None = None,
        exponent: float = 1.0,
        max_lr: float | None = None,
        lr: float | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float | None = None,
        warmup_strategy: Literal["linear"] | None = None,
        div_factor: float | None = None,
        final_div_factor: float | None = None,
        alpha: float | None = None,
        last_epoch: int | None = None,
    ) -> None:
        ours = {"peak_lr": peak_lr, "warmup_steps": warmup_steps, "start_lr": start_lr, "end_lr": end_lr}
        earlier = {
            "lr": lr,
            "epochs": epochs,
            "steps_per_epoch": steps_per_epoch,
            "pct_start": pct_start,
            "warmup_strategy": warmup_strategy,
            "div_factor": div_factor,
            "final_div_factor": final_div_factor,
            "alpha": alpha,
            "last_epoch": last_epoch,
        }
        if max_lr is not None:
            _refuse(ours, "without max_lr")
            if (epochs is None) != (steps_per_epoch is None):
                raise ValueError("epochs and steps_per_epoch go together")
            div, final = div_factor or 25.0, final_div_factor or 1e4
            self.warmup_share: float | None = 0.3 if pct_start is None else pct_start
            peak_lr, start_lr = max_lr, max_lr / div
            end_lr = max_lr / (div * final) if alpha is None else max_lr * alpha
            if total_steps is None and epochs is not None and steps_per_epoch is not None:
                total_steps = epochs * steps_per_epoch
        else:
            _refuse(earlier, "with max_lr")
            self.warmup_share = None
        if peak_lr is None:
            raise ValueError("peak_lr is required")
        start, end, warmup = start_lr or 0.0, end_lr or 0.0, warmup_steps or 0
        checks = {
            "peak_lr must be greater than 0": peak_lr > 0,
            "start_lr must lie between 0 and peak_lr": 0 <= start <= peak_lr + 1e-12,
            "end_lr must lie between 0 and peak_lr": 0 <= end <= peak_lr + 1e-12,
            "eps must be greater than 0": eps > 0,
            "weight_decay must not be negative": weight_decay >= 0,
            "warmup_steps must not be negative": warmup >= 0,
            "total_steps must be greater than 0": total_steps is None or total_steps > 0,
            "exponent must be greater than 0": exponent > 0,
            "pct_start must lie between 0 and 1": 0 <= (self.warmup_share or 0) < 1,
            "last_epoch must be -1": last_epoch in (None, -1),
        }
        broken = [rule for rule, holds in checks.items() if not holds]
        if broken:
            raise ValueError("; ".join(broken))
        self.adamw = {"lr": peak_lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        self.schedule: dict[str, Any] = {
            "warmup_steps": warmup,
            "start_lr": start,
            "end_lr": end,
            "exponent": exponent,
        }
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
        schedule = {"total_steps": total, **self.schedule}
        if self.warmup_share is not None:
            schedule["warmup_steps"] = int(self.warmup_share * total)
        if schedule["warmup_steps"] >= total:
            raise ValueError(f"warmup_steps {schedule['warmup_steps']} must be fewer than {total} updates")
        return AdamWWithWarmupCosine(
            list(params),
            schedule=lambda optimizer: WarmupCosineLR(optimizer, **schedule),
            **self.adamw,
        )


def _refuse(given: dict[str, Any], when: str) -> None:
    """Two descriptions of one schedule are one too many."""
    names = [name for name, value in given.items() if value is not None]
    if names:
        raise ValueError(f"{', '.join(names)}: only {when}")
