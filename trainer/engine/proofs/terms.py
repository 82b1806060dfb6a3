"""The claim that every term of a loss is trained: how the total changes, held against its gradient."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer.engine.proofs.asking import losses_of
from trainer.engine.proofs.claim import Claim, Fault, not_applicable
from trainer.engine.proofs.trial import Trial
from trainer.templates import Objective
from trainer.templates.reduced import plain

TEXT = "every term of the total is trained"
PATH = ("train", "trainer")
_STEP = 1e-2
"""Length of a step, relative to the weights: float32 tells the change, and a loss is nearly straight."""

_STRAIGHT = 0.05
"""Share of the changes of the total that may stay unexplained by those of its terms."""


def term_claims(trial: Trial) -> Iterator[Claim]:
    """Yield the claim about the terms of the loss.

    The weights are moved along random directions. The changes of the total are a weighted sum of those of
    its terms, which tells the weights; along the same directions the gradient of the total must be the sum
    with the same weights. A term with a weight and no gradient was detached.
    """
    policy = trial.experiment.policy
    if policy is None:
        yield not_applicable("loss", TEXT, "the trainer names no policy_class")
        return
    batch = trial.experiment.batches.example(trial.samples)
    losses = losses_of(trial, policy, batch)
    names = [name for name, value in losses.items() if name != "total" and _is_scalar(value)]
    if not names:
        yield not_applicable("loss", TEXT, "the loss names no terms beside its total")
        return
    parameters = [
        p
        for name in trial.experiment.optimizers
        for p in trial.experiment.components[name].module.parameters()
        if p.requires_grad
    ]
    found = torch.autograd.grad(losses["total"], parameters, allow_unused=True)
    total, terms, slopes = [], [], []
    for number in range(len(names) + 4):
        directions = _directions(parameters, number)
        ends = [_moved(trial, policy, batch, parameters, directions, sign) for sign in (1.0, -1.0)]
        total.append((ends[0]["total"] - ends[1]["total"]) / 2)
        terms.append([(ends[0][name] - ends[1][name]) / 2 for name in names])
        slopes.append(
            sum(float((g * d).sum()) for g, d in zip(found, directions, strict=True) if g is not None)
        )
    yield _claim(policy, names, np.array(total), np.array(terms), np.array(slopes))


def _claim(
    policy: Objective, names: Sequence[str], total: np.ndarray, terms: np.ndarray, slopes: np.ndarray
) -> Claim:
    weights, unexplained = _fitted(terms, total)
    if unexplained > _STRAIGHT:
        return not_applicable("loss", TEXT, "the total is no weighted sum of the terms that the loss names")
    by_gradient, _ = _fitted(terms, slopes)
    size = np.abs(total).max()
    counts = np.abs(weights) * np.abs(terms).max(axis=0) > 0.02 * size
    faults, shown = [], []
    for name, weight, own, counted in zip(names, weights, by_gradient, counts, strict=True):
        if counted:
            shown.append(f"{name} {weight:.2g} ({own:.2g} by its gradient)")
            if abs(own) < 0.1 * abs(weight):
                message = (
                    f"'{name}' is in the total of {type(policy).__name__} with weight {weight:.2g}, but the "
                    "gradient knows nothing of it"
                )
                faults.append(Fault(PATH, message, "is it detached, or computed under no_grad?"))
    return Claim("loss", TEXT, f"weights in the total: {', '.join(shown) or 'none'}", faults=faults)


def _is_scalar(value: Any) -> bool:
    value = plain(value)
    return isinstance(value, Tensor) and value.numel() == 1 and value.is_floating_point()


def _directions(parameters: Sequence[nn.Parameter], number: int) -> list[Tensor]:
    """Return a random step for every parameter, in proportion to its size."""
    generator = torch.Generator().manual_seed(number)
    steps = []
    for parameter in parameters:
        size = float(parameter.detach().square().mean().sqrt()) or 0.1
        steps.append(_STEP * size * torch.randn(parameter.shape, generator=generator))
    return steps


def _moved(
    trial: Trial,
    policy: Objective,
    batch: Mapping[str, Any],
    parameters: Sequence[nn.Parameter],
    directions: Sequence[Tensor],
    sign: float,
) -> dict[str, float]:
    """Return the losses with other weights; the weights are as before afterwards."""
    with _at(parameters, directions, sign), torch.no_grad():
        losses = losses_of(trial, policy, batch)
    return {name: float(plain(value)) for name, value in losses.items() if _is_scalar(value)}


@contextlib.contextmanager
def _at(parameters: Sequence[nn.Parameter], directions: Sequence[Tensor], sign: float) -> Iterator[None]:
    exact = [parameter.detach().clone() for parameter in parameters]
    try:
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(direction, alpha=sign)
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, exact, strict=True):
                parameter.copy_(value)


def _fitted(terms: np.ndarray, changes: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the weights of the terms that explain changes best, and the share that stays unexplained."""
    scale = np.maximum(np.abs(terms).max(axis=0), 1e-30)
    weights = np.linalg.lstsq(terms / scale, changes, rcond=1e-6)[0] / scale
    rest = changes - terms @ weights
    return weights, float(np.square(rest).sum() / max(np.square(changes).sum(), 1e-30))
