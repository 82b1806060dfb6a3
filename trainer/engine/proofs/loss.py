"""Claims about the loss: padding does not count, everything else does, and what is logged is trained."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.data.columns import ACTION
from trainer.data.normalization import PROPRIO, STATE, join_proprio
from trainer.engine.proofs.asking import chunks_of, losses_of, sees_actions, total_of
from trainer.engine.proofs.claim import Claim, Fault, not_applicable
from trainer.engine.proofs.trial import Trial
from trainer.templates import Objective

ABOUT = "loss"
FLAGS = "action_is_pad"
PATH = ("train", "trainer")
_HINT = f"leave out the steps of {FLAGS}, which are beyond an episode, in every term of the loss"
_TRIED = 4096
"""Samples among which padded ones are looked for."""


def loss_claims(trial: Trial) -> Iterator[Claim]:
    """Yield the claims about the loss."""
    policy = trial.experiment.policy
    texts = ("padding does not count in the loss", "the actions that are no padding change the loss")
    if policy is None:
        for text in texts:
            yield not_applicable(ABOUT, text, "the trainer names no policy_class")
        return
    rows = _padded_rows(trial)
    if isinstance(rows, str):
        yield not_applicable(ABOUT, texts[0], rows)
        batch = trial.experiment.batches.example(trial.samples)
        flags = torch.zeros_like(batch[ACTION][..., 0], dtype=torch.bool) if ACTION in batch else None
    else:
        batch = trial.loader.sample(rows)
        flags = batch[FLAGS].bool()
        yield _padding(trial, policy, batch, flags, texts[0])
    if flags is None:
        yield not_applicable(ABOUT, texts[1], f"the batch has no '{ACTION}'")
    else:
        yield _own_actions(trial, policy, batch, flags, texts[1])
    yield from _observations(trial, policy)


def _padded_rows(trial: Trial) -> np.ndarray | str:
    """Return samples of which some reach beyond their episode, or why there are none."""
    dataset = trial.data.dataset
    episodes = dataset.episode_index
    if episodes is not None and len(episodes) == len(dataset):
        ends = np.flatnonzero(np.diff(episodes, append=-1) != 0)
        rows = np.unique(np.concatenate([ends, np.maximum(ends - 1, 0)]))
    else:
        rows = np.linspace(0, len(dataset) - 1, min(_TRIED, len(dataset))).astype(np.int64)
    # Pictures of so many samples would take long: the first ones that are padded will do.
    for start in range(0, len(rows), 4 * trial.samples):
        some = rows[start : start + 4 * trial.samples]
        flags = dict(dataset.__getitems__(some)).get(FLAGS)
        if not isinstance(flags, Tensor):
            return f"the batch has no {FLAGS}"
        padded = flags.bool().reshape(len(some), -1)
        mixed = padded.any(dim=1) & ~padded.all(dim=1)
        if mixed.any():
            return np.resize(some[mixed.numpy()], trial.samples)
    return "no sample reaches beyond its episode"


def _shifted(batch: Mapping[str, Any], where: Tensor, by: float) -> dict[str, Any]:
    """Return the batch with other actions at some of the steps `(B, S)`."""
    action = batch[ACTION]
    places = where.reshape(*where.shape, *(1,) * (action.ndim - 2))
    return {**batch, ACTION: torch.where(places, action + by, action)}


def _asks_for_padding(trial: Trial, policy: Objective) -> bool:
    """Say whether the policy was asked to train on padding, or does so unless it is asked not to."""
    own = inspect.signature(type(policy)).parameters.get("train_on_padding")
    default = own is not None and own.default is True
    return bool(trial.config.train.trainer.params.get("train_on_padding", default))


def _padding(trial: Trial, policy: Objective, batch: Mapping[str, Any], flags: Tensor, text: str) -> Claim:
    if _asks_for_padding(trial, policy):
        return not_applicable(ABOUT, text, "train_on_padding asks for it")
    if sees_actions(trial, policy, batch):
        return _padded_targets(trial, policy, batch, flags, text)
    loss = total_of(trial, policy, batch)
    change = max(abs(total_of(trial, policy, _shifted(batch, flags, by)) - loss) for by in (3.0, -7.0))
    measured = f"{change:.2g} of {loss:.3g}, with other numbers in {int(flags.sum())} padded steps"
    faults = []
    if not change <= 1e-5 * max(abs(loss), 1.0):
        message = (
            f"the loss of {type(policy).__name__} changes by {change:.3g} with the actions that are padding"
        )
        faults.append(Fault(PATH, message, _HINT))
    return Claim(ABOUT, text, measured, faults=faults)


def _padded_targets(
    trial: Trial, policy: Objective, batch: Mapping[str, Any], flags: Tensor, text: str
) -> Claim:
    """Of a policy whose networks are given actions, such as noised ones: what it predicts there is free."""
    with chunks_of(trial, tuple(batch[ACTION].shape[1:])) as chunks:
        total = losses_of(trial, policy, batch)["total"]
    if not chunks or len(chunks[-1]) % len(flags):
        return not_applicable(ABOUT, text, "no component returns a chunk of actions")
    (slope,) = torch.autograd.grad(total, [chunks[-1]], allow_unused=True)
    if slope is None:
        return not_applicable(ABOUT, text, "the loss does not use the last chunk that a component returns")
    by_step = slope.abs().amax(dim=-1).reshape(-1, *flags.shape)
    there, elsewhere = float(by_step[:, flags].max()), float(by_step[:, ~flags].max())
    measured = f"gradient {there:.2g} at {int(flags.sum())} padded steps, {elsewhere:.2g} elsewhere"
    faults = []
    if there > 1e-6 * elsewhere:
        message = f"the loss of {type(policy).__name__} trains what is predicted for steps that are padding"
        faults.append(Fault(PATH, message, _HINT))
    return Claim(ABOUT, text, measured, faults=faults)


def _own_actions(
    trial: Trial, policy: Objective, batch: Mapping[str, Any], flags: Tensor, text: str
) -> Claim:
    loss = total_of(trial, policy, batch)
    change = max(abs(total_of(trial, policy, _shifted(batch, ~flags, by)) - loss) for by in (3.0, -7.0))
    measured = f"by {change:.2g} of {loss:.3g}, with other numbers in {int((~flags).sum())} steps"
    faults = []
    if not change > 1e-6 * max(abs(loss), 1.0):
        message = f"the loss of {type(policy).__name__} does not depend on the actions within an episode"
        faults.append(Fault(PATH, message, f"are the flags of {FLAGS} used the wrong way round?"))
    return Claim(ABOUT, text, measured, faults=faults)


def _observations(trial: Trial, policy: Objective) -> Iterator[Claim]:
    """Yield, of every observation that an acting policy reads, whether the loss depends on it."""
    text = "every observation that is read changes the loss"
    reads = trial.experiment.facts.get("reads")
    batch = trial.experiment.batches.example(trial.samples)
    names = [n for n in reads or () if isinstance(batch.get(n), Tensor) and batch[n].is_floating_point()]
    if not names:
        yield not_applicable(ABOUT, text, "it is not known what the policy reads")
        return
    gradients = _gradients(trial, policy, batch, names)
    loss = total_of(trial, policy, batch)
    changes, faults = [], []
    for name in names:
        # A frozen encoder passes no gradients on; then another observation tells.
        by = gradients[name] or abs(total_of(trial, policy, _with_other(batch, name)) - loss)
        changes.append(f"{name} {by:.2g}")
        if not by:
            message = f"the policy reads '{name}', but its loss does not depend on it"
            faults.append(Fault(PATH, message, "is it used, and not multiplied by 0?"))
    yield Claim(ABOUT, text, f"largest derivative or change: {', '.join(changes)}", faults=faults)


def _gradients(
    trial: Trial, policy: Objective, batch: Mapping[str, Any], names: list[str]
) -> dict[str, float]:
    """Return the largest derivative of the loss by each observation; 0 where none comes."""
    leaves = {name: _own(batch, name).clone().requires_grad_(True) for name in names}
    total = losses_of(trial, policy, joined({**batch, **leaves}))["total"]
    if not total.requires_grad:
        return dict.fromkeys(names, 0.0)
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return {n: 0.0 if g is None else float(g.abs().max()) for n, g in zip(names, found, strict=True)}


def _own(batch: Mapping[str, Any], name: str) -> Tensor:
    """Return an observation as the dataset has it: what is called the state may hold the currents too."""
    value: Tensor = batch.get(PROPRIO, batch[name]) if name == STATE else batch[name]
    return value


def joined(batch: dict[str, Any]) -> dict[str, Any]:
    """Return a batch whose state is that of the dataset as policies see it."""
    if STATE in batch and PROPRIO in batch:
        batch[STATE] = batch[STATE] if batch[STATE].shape == batch[PROPRIO].shape else batch[PROPRIO]
        join_proprio(batch)
    return batch


def _with_other(batch: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a batch in which one observation holds other numbers."""
    own = _own(batch, name)
    noise = torch.rand(own.shape, generator=torch.Generator().manual_seed(0))
    return joined({**batch, name: own + noise})
