"""Asking a policy for losses and actions with the same random numbers, and listening to its components."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from model_constructor import random_source
from torch import Tensor, nn

from trainer.data.batches import Batch
from trainer.data.columns import ACTION
from trainer.engine.proofs.trial import Trial
from trainer.modeling.component import unwrap
from trainer.templates import Context, Objective, Policy
from trainer.utils.random import RowRandom
from trainer.utils.seed import kept_random_state

Given = dict[tuple[str, str], list[Tensor]]
"""Component and input → what was given to it, call after call."""


@contextlib.contextmanager
def evaluating(trial: Trial) -> Iterator[None]:
    """Put the components into eval mode while the block runs, and let no buffer be another one afterwards."""
    policy = trial.experiment.policy
    owner = trial.experiment.models if policy is None else nn.ModuleList([trial.experiment.models, policy])
    modules = list(trial.experiment.models.modules())
    modes = [module.training for module in modules]
    buffers = [(buffer, buffer.detach().clone()) for buffer in owner.buffers()]
    trial.experiment.models.eval()
    try:
        yield
    finally:
        for module, training in zip(modules, modes, strict=True):
            module.training = training
        with torch.no_grad():
            for buffer, value in buffers:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


def losses_of(trial: Trial, policy: Objective, batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the losses of a batch in eval mode, as in the second update of a run."""
    rows = next(len(value) for value in batch.values() if isinstance(value, Tensor) and value.ndim)
    random = RowRandom(range(rows))
    with evaluating(trial), kept_random_state(), random_source(random):
        torch.manual_seed(0)
        return dict(policy.loss(dict(batch), Context(random, training=True, step=1, total_steps=2)))


def total_of(trial: Trial, policy: Objective, batch: Mapping[str, Any]) -> float:
    """Return the loss of a batch in eval mode, a number."""
    with torch.no_grad():
        return float(losses_of(trial, policy, batch)["total"])


def action_of(
    policy: Policy, observation: Mapping[str, Any], random: RowRandom, elsewhere: int = 0
) -> Tensor:
    """Return the chunk that a policy predicts.

    Args:
        policy: in eval mode.
        observation: of so many rows as `random` has.
        random: whose first draws it may use.
        elsewhere: seed of the global generators, from which a policy must not draw.
    """
    with torch.no_grad(), random_source(random), kept_random_state():
        torch.manual_seed(elsewhere)
        return policy.predict_action(dict(observation), Context(random))


class Answer:
    """What the policy that would be deployed predicts for one sample in the middle of the data.

    It is asked for once, when a claim first needs it: a chunk may take a hundred steps of a large network.

    Args:
        trial: whose policy acts.
    """

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self.row = np.array([len(trial.data.dataset) // 2])

    @functools.cached_property
    def batch(self) -> Batch:
        """The sample as training sees it, `(1, …)`."""
        return self._trial.loader.sample(self.row)

    @functools.cached_property
    def policy(self) -> Policy:
        """The policy with the weights that would be deployed."""
        return self._deployed[1]

    @property
    def chunk(self) -> Tensor:
        """What it predicts with the draws of seed 0, normalized `(1, S, A)`."""
        return self._asked[0]

    @property
    def given(self) -> Given:
        """What its components were given for it."""
        return self._asked[1]

    @property
    def drawn(self) -> bool:
        """Whether it drew random numbers for it."""
        return self._asked[2]

    @functools.cached_property
    def _deployed(self) -> tuple[nn.ModuleDict, Policy]:
        deployed = self._trial.experiment.deployed()
        assert deployed is not None
        models, policy = deployed
        assert isinstance(policy, Policy)
        return models, policy

    @functools.cached_property
    def _asked(self) -> tuple[Tensor, Given, bool]:
        random = RowRandom([0])
        with given_to(self._deployed[0]) as given:
            chunk = action_of(self.policy, self.batch, random)
        return chunk, given, random.calls > 0


@contextlib.contextmanager
def given_to(models: nn.ModuleDict) -> Iterator[Given]:
    """Note the tensors that every component is given while the block runs."""
    given: Given = {}
    handles = []
    for name, component in models.items():
        inputs = list(getattr(unwrap(component), "inputs", ()))

        def note(
            module: nn.Module, args: Any, kwargs: Any, name: str = name, inputs: list[str] = inputs
        ) -> None:
            for argument, value in {**dict(zip(inputs, args, strict=False)), **kwargs}.items():
                if isinstance(value, Tensor):
                    given.setdefault((name, argument), []).append(value.detach().clone())

        handles.append(component.register_forward_pre_hook(note, with_kwargs=True))
    try:
        yield given
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def chunks_of(trial: Trial, shape: tuple[int, ...]) -> Iterator[list[Tensor]]:
    """Note what components return in the shape `(…, S, A)` of a chunk while the block runs, in order."""
    chunks: list[Tensor] = []

    def note(module: nn.Module, args: Any, result: Any) -> None:
        several = result.values() if isinstance(result, Mapping) else result
        for value in several if isinstance(several, (list, tuple)) else [result]:
            if isinstance(value, Tensor) and tuple(value.shape[1:]) == shape and value.requires_grad:
                chunks.append(value)

    handles = [component.register_forward_hook(note) for component in trial.experiment.models.values()]
    try:
        yield chunks
    finally:
        for handle in handles:
            handle.remove()


def sees_actions(trial: Trial, policy: Objective, batch: Mapping[str, Any]) -> bool:
    """Say whether a component is given another input where the actions of a batch are other ones."""
    seen = []
    for by in (0.0, 1.0):
        with given_to(trial.experiment.models) as given:
            total_of(trial, policy, {**batch, ACTION: batch[ACTION] + by})
        seen.append(given)
    one, other = seen
    return any(
        not torch.equal(a, b) for key in one for a, b in zip(one[key], other.get(key, []), strict=False)
    )
