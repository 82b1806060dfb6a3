"""Claims about the learning rate: from the first update to the last."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from trainer.config.component import ComponentSpec
from trainer.engine.optimizers import build_optimizer
from trainer.engine.proofs.claim import Claim, Fault
from trainer.engine.proofs.trial import Trial
from trainer.engine.update import switch_optimizer

SECONDS = 6.0
"""Time for a walk through the schedule of one optimizer."""

_IDLE = 0.1
"""Share of the run that may pass at 0 at its beginning, and again at its end: a decay may well end there."""

_NOTHING = 1e-6
"""A learning rate below this share of its peak counts as 0."""


def schedule_claims(trial: Trial, total_steps: int) -> Iterator[Claim]:
    """Yield a claim for every different optimizer of a run.

    Args:
        trial: its optimizers are the ones.
        total_steps: updates of the whole run.
    """
    several: dict[str, tuple[tuple[str, ...], ComponentSpec, list[str]]] = {}
    for name in trial.experiment.optimizers:
        path, spec = trial.config.optimizers[name]
        several.setdefault(f"{spec.type} {sorted(spec.params.items())}", (path, spec, []))[2].append(name)
    for path, spec, names in several.values():
        yield schedule_claim(path, names, learning_rates(spec, total_steps), total_steps)


def learning_rates(spec: ComponentSpec, total_steps: int) -> np.ndarray:
    """Return the learning rates `(updates, groups)` of an optimizer, as far as there is time to look.

    Args:
        spec: type and parameters of the optimizer.
        total_steps: updates of the run.
    """
    optimizer = build_optimizer(spec, [nn.Parameter(torch.zeros(1))], total_steps)
    switch_optimizer(optimizer, "train")
    rates: list[list[float]] = []
    until = time.perf_counter() + SECONDS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while len(rates) < total_steps and time.perf_counter() < until:
            rates.append([float(group["lr"]) for group in optimizer.param_groups])
            optimizer.step()  # without a gradient, so only the schedule moves
    return np.array(rates)


def schedule_claim(path: tuple[str, ...], names: list[str], rates: np.ndarray, total_steps: int) -> Claim:
    """Return the claim about a course of learning rates.

    Args:
        path: of the optimizer in the configuration.
        names: the components that it trains.
        rates: `(updates, groups)`, from the first update on.
        total_steps: updates of the run.
    """
    first_group, seen = rates[:, 0], len(rates)
    peak = int(first_group.argmax())
    points = {"first": 0, "peak": peak, "middle": total_steps // 2, "last": total_steps - 1}
    shown = ", ".join(f"{n} ({at + 1:,}) {first_group[at]:.3g}" for n, at in points.items() if at < seen)
    above = int((first_group > _NOTHING * first_group[peak]).sum())
    shown += f"; above 0 in {above:,} of {seen:,} updates"
    if seen < total_steps:
        shown += f", the first of {total_steps:,}"
    who = f"the learning rate of {', '.join(names)}"
    place = (*path, "params")
    faults = []
    if not np.isfinite(rates).all() or (rates < 0).any():
        at = int(np.argwhere(~np.isfinite(rates) | (rates < 0))[0][0])
        faults.append(Fault(place, f"{who} is {first_group[at]} at update {at + 1:,}"))
    elif (rates.max(axis=0) == 0).any():
        faults.append(Fault(place, f"{who} is 0 in all {seen:,} updates, so nothing is learned"))
    else:
        faults += _course(place, who, rates, total_steps)
    return Claim(
        "schedule",
        f"{who} is above 0 but for a tenth of the run at either end, and its warm-up ends",
        shown,
        faults=faults,
    )


def _course(place: tuple[str, ...], who: str, rates: np.ndarray, total_steps: int) -> Iterator[Fault]:
    """Yield what is wrong with a course of finite rates, not all 0."""
    for group in rates.T:
        peak, seen = int(group.argmax()), len(group)
        idle = np.flatnonzero(group[peak:] <= _NOTHING * group[peak]) + peak
        if len(idle) > max(1, _IDLE * total_steps):
            message = f"{who} is 0 from update {int(idle[0]) + 1:,} of {total_steps:,} on"
            yield Fault(place, message, "does its schedule know how long the run is?")
            return
        late = np.flatnonzero(group > _NOTHING * group[peak])[0]
        if late > max(1, _IDLE * total_steps):
            yield Fault(place, f"{who} is 0 until update {int(late) + 1:,} of {total_steps:,}")
            return
        rises = seen == total_steps and peak == seen - 1 and group[0] < 0.9 * group[-1]
        if rises and math.isclose(group.max(), group[-1]) and total_steps > 2:
            message = (
                f"{who} still rises at the last of {total_steps:,} updates: the warm-up is as long as the run"
            )
            yield Fault(place, message, "shorten the warm-up, or train longer")
            return
