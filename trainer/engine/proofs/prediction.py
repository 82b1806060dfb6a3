"""Claims about prediction: it repeats, sees what training sees, and agrees with the loss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from trainer.data.batches import Batch
from trainer.data.columns import ACTION
from trainer.data.normalization import CURRENT, DATASET_INDEX, STATE
from trainer.engine.proofs.asking import (
    Answer,
    Given,
    action_of,
    evaluating,
    given_to,
    losses_of,
    sees_actions,
    total_of,
)
from trainer.engine.proofs.claim import Claim, Fault, not_applicable
from trainer.engine.proofs.trial import Trial
from trainer.modeling.observations import input_name
from trainer.templates import Policy
from trainer.utils.random import RowRandom

ABOUT = "prediction"
PATH = ("train", "trainer")
REPEATS = "the same observation and seed give the same action"
ONCE = "observations are normalized once"
LEAST = "the loss is least where the policy predicts"


def prediction_claims(trial: Trial, answer: Answer) -> Iterator[Claim]:
    """Yield the claims about what the policy of a trial predicts, of which `answer` is one prediction."""
    policy = trial.experiment.policy
    if not isinstance(policy, Policy):
        for text in (REPEATS, ONCE, LEAST):
            yield not_applicable(ABOUT, text, "the trainer trains no policy that acts")
        return
    yield _repeats(answer)
    yield _normalized_once(trial, policy, answer.batch, answer.given)
    yield _least(trial, policy, answer.drawn)


def _repeats(answer: Answer) -> Claim:
    """Ask once more; what a policy draws elsewhere than in its context differs."""
    again = action_of(answer.policy, answer.batch, RowRandom([0]), elsewhere=1)
    apart = float((answer.chunk - again).abs().max())
    faults = []
    if apart > 0:
        name = type(answer.policy).__name__
        message = f"{name} predicts actions {apart:.2g} apart for the same observation and seed"
        faults.append(Fault(PATH, message, "draw from context.random, and keep nothing between calls"))
    return Claim(ABOUT, REPEATS, f"{apart:.2g} apart", faults=faults)


def _normalized_once(trial: Trial, policy: Policy, batch: Batch, predicting: Given) -> Claim:
    """Look at what the components are given of the observations, in the loss and in the prediction."""
    text = ONCE
    normalizer = trial.experiment.normalizer
    features = [
        k
        for k in normalizer.modes
        if k in batch
        and k != ACTION
        and not (k == STATE and CURRENT in batch)
        and batch[k].is_floating_point()
    ]
    if not features:
        return not_applicable(ABOUT, text, "no observation is normalized")
    with given_to(trial.experiment.models) as training:
        total_of(trial, policy, batch)
    faults, count = [], 0
    for (name, argument), values in (*training.items(), *predicting.items()):
        key = next((k for k in features if input_name(k) == argument), None)
        for value in values if key else ():
            if key is None or value.shape != batch[key].shape:
                continue
            count += 1
            if _close(value, batch[key]):
                continue
            again = normalizer.normalize({k: batch[k] for k in (key, DATASET_INDEX) if k in batch})[key]
            raw = _denormalized(normalizer, key, batch[key])
            what = (
                "normalized twice"
                if _close(value, again)
                else "in its own units"
                if _close(value, raw)
                else None
            )
            if what is not None:
                message = f"{type(policy).__name__} gives '{key}' to component '{name}' {what}"
                hint = "a batch is normalized already, in training and on a robot; the policy must not do it"
                faults.append(Fault(PATH, message, hint))
    if not count:
        return not_applicable(ABOUT, text, "no component has an input that is called like an observation")
    return Claim(ABOUT, text, f"{count} inputs of components, {len(faults)} are not", faults=faults[:1])


def _denormalized(normalizer: Any, key: str, value: Tensor) -> Tensor:
    try:
        back: Tensor = normalizer.denormalize(key, value)
    except ValueError:  # of a mixture: in the units of which dataset?
        return value
    return back


def _close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one.float(), other.float(), rtol=1e-4, atol=1e-4)


def _least(trial: Trial, policy: Policy, draws: bool) -> Claim:
    """A policy that predicts without drawing, and whose networks see no action, is at its own minimum."""
    text = LEAST
    if draws:
        return not_applicable(ABOUT, text, "the policy draws its action")
    batch = trial.experiment.batches.example(trial.samples)
    with evaluating(trial):
        chunk = action_of(policy, batch, RowRandom(range(trial.samples)))
    if chunk.shape != batch[ACTION].shape:
        return not_applicable(ABOUT, text, "the policy predicts another chunk than the data has")
    action = chunk.float().detach().clone().requires_grad_(True)
    total = losses_of(trial, policy, {**batch, ACTION: action})["total"]
    if sees_actions(trial, policy, batch) or not total.requires_grad:
        return not_applicable(ABOUT, text, "the policy gives actions to its networks")
    (slope,) = torch.autograd.grad(total, [action], allow_unused=True)
    if slope is None:
        return not_applicable(ABOUT, text, "the loss does not depend on the action")
    least = float(total.detach())
    signs = torch.randn(action.shape, generator=torch.Generator().manual_seed(0)).sign()
    rise = total_of(trial, policy, {**batch, ACTION: action.detach() + signs}) - least
    lower = least
    direction = -slope / slope.abs().max().clamp_min(1e-30)
    for step in (0.03, 0.1, 0.3, 1.0, 3.0):
        moved = action.detach() + step * direction
        lower = min(lower, total_of(trial, policy, {**batch, ACTION: moved}))
    share = (least - lower) / max(abs(rise), 1e-12)
    faults = []
    if share > 0.02 and slope.abs().max() > 0:
        message = (
            f"the loss of {type(policy).__name__} at its own prediction is {least:.3g} and beside it lower "
            f"({lower:.3g}): predict_action and the loss speak of different numbers"
        )
        hint = "both are normalized; is one of them normalized or brought back once more?"
        faults.append(Fault(PATH, message, hint))
    return Claim(
        ABOUT, text, f"{least:.3g} there, {least + rise:.3g} one standard deviation off", faults=faults
    )
