"""One forward pass before training: what does not fit together is found before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from model_constructor import random_source
from torch import Tensor, nn

from trainer.data.batches import Batches
from trainer.data.columns import ACTION
from trainer.runtime import Runtime
from trainer.templates import Context, Objective, Policy
from trainer.utils.random import RowRandom
from trainer.utils.seed import kept_random_state
from trainer.utils.text import what_it_is

SAMPLES = 2


class _Missing(KeyError):
    """Something is asked of a batch that is not in it; the text is a sentence."""

    def __str__(self) -> str:
        return str(self.args[0])


class _Watched(dict[str, Any]):
    """A batch that notes what is read of it, in `read`; whoever goes over all of it reads all of it."""

    def __init__(self, batch: Mapping[str, Any], read: set[str]) -> None:
        super().__init__(batch)
        self.read = read

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        try:
            return super().__getitem__(key)
        except KeyError:
            raise _Missing(f"the batch has no '{key}'; it has {', '.join(map(str, self.keys()))}") from None

    def get(self, key: str, default: Any = None) -> Any:
        self.read.add(key)
        return super().get(key, default)

    def pop(self, key: str, *default: Any) -> Any:
        self.read.add(key)
        return super().pop(key, *default)

    def _all(self) -> dict[str, Any]:
        self.read.update(super().keys())
        return {key: super(_Watched, self).__getitem__(key) for key in super().__iter__()}

    def items(self) -> Any:
        return self._all().items()

    def values(self) -> Any:
        return self._all().values()

    def copy(self) -> dict[str, Any]:
        return self._all()

    def __or__(self, other: Any) -> Any:
        return self._all() | other

    def __ror__(self, other: Any) -> Any:
        return dict(other) | self._all()

    def __iter__(self) -> Any:
        # Having this method makes `dict(batch)` and `**batch` ask for each value by its key.
        return super().__iter__()


@dataclass(frozen=True)
class Rehearsed:
    """What a rehearsal showed.

    Attributes:
        losses: the names of the policy's losses.
        by_loss: the keys of the batch that the loss reads.
        by_prediction: those that predicting an action reads; none where nothing acts.
    """

    losses: list[str]
    by_loss: set[str]
    by_prediction: set[str]


def rehearse(
    policy: Objective, models: nn.ModuleDict, batches: Batches, facts: Mapping[str, Any], runtime: Runtime
) -> Rehearsed:
    """Ask for the loss on two samples, and for an action chunk of a policy; nothing of the run changes.

    Every rank takes part. Generators, modes and gradients are afterwards as they were before.

    Args:
        policy: the policy of the trainer.
        models: its components, as they will train.
        batches: gives the samples.
        facts: the dataset's: its windows and features tell the chunk that a robot will ask for.
        runtime: this rank.

    Returns:
        The names of the policy's losses, and what is read of a batch.

    Raises:
        ValueError: the policy's loss or its chunk are not what training and deployment need.
        Exception: whatever a component raises about the shapes that it is given.
    """
    modes = [(m, m.training) for m in models.modules()]
    by_loss: set[str] = set()
    by_prediction: set[str] = set()
    try:
        models.eval()
        with kept_random_state(), torch.no_grad(), runtime.autocast():
            batch = batches.example(SAMPLES)
            context = Context(RowRandom(range(SAMPLES), runtime.device))
            with random_source(context.random):
                losses = policy.loss(_Watched(batch, by_loss), context)
                chunk = None
                if isinstance(policy, Policy):
                    chunk = policy.predict_action(_Watched(batch, by_prediction), context)
    finally:
        for module, training in modes:
            module.training = training
    if not isinstance(losses, Mapping) or "total" not in losses:
        raise ValueError("the policy's loss returns no 'total', so there is nothing to train")
    if isinstance(policy, Policy):
        _check_chunk(chunk, policy, facts)
    return Rehearsed([str(name) for name in losses], by_loss, by_prediction)


def _check_chunk(chunk: Any, policy: Any, facts: Mapping[str, Any]) -> None:
    if not isinstance(chunk, Tensor):
        raise ValueError(f"predict_action returns {what_it_is(chunk)}; it must return a tensor (B, H, A)")
    window, feature = facts.get("windows", {}).get(ACTION), facts.get("features", {}).get(ACTION)
    if window is None or feature is None:
        return
    wanted = (SAMPLES, len(window), *feature["shape"])
    if tuple(chunk.shape) != wanted:
        raise ValueError(
            f"the policy predicts chunks of shape {tuple(chunk.shape[1:])}, but the data has {wanted[1:]}"
        )
    executed = getattr(policy, "n_action_steps", None)
    if executed is not None and not 1 <= executed <= len(window):
        raise ValueError(f"n_action_steps is {executed}, but a chunk holds 1 to {len(window)}")


def explain(error: Exception) -> str:
    """Return an error and the notes that a graph added to it (step, module, line, shapes) as one sentence."""
    notes = [" ".join(note.split()) for note in getattr(error, "__notes__", [])]
    return "; ".join([" ".join(str(error).split()), *notes])
