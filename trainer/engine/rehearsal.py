"""One forward pass before training: what does not fit together is found before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from model_constructor import random_source
from torch import Tensor, nn

from trainer.data.batches import Batches
from trainer.runtime import Runtime
from trainer.templates import Context, Objective, Policy
from trainer.utils.random import RowRandom
from trainer.utils.seed import kept_random_state

SAMPLES = 2


def rehearse(
    policy: Objective, models: nn.ModuleDict, batches: Batches, facts: Mapping[str, Any], runtime: Runtime
) -> list[str]:
    """Ask for the loss on two samples, and for an action chunk of a policy; nothing of the run changes.

    Every rank takes part. Generators, modes and gradients are afterwards as they were before.

    Args:
        policy: the policy of the trainer.
        models: its components, as they will train.
        batches: gives the samples.
        facts: the dataset's: its windows and features tell the chunk that a robot will ask for.
        runtime: this rank.

    Returns:
        The names of the policy's losses.

    Raises:
        ValueError: the policy's loss or its chunk are not what training and deployment need.
        Exception: whatever a component raises about the shapes that it is given.
    """
    modes = [(m, m.training) for m in models.modules()]
    try:
        models.eval()
        with kept_random_state(), torch.no_grad(), runtime.autocast():
            batch = batches.example(SAMPLES)
            context = Context(RowRandom(range(SAMPLES), runtime.device))
            with random_source(context.random):
                losses = policy.loss(batch, context)
                chunk = policy.predict_action(batch, context) if isinstance(policy, Policy) else None
    finally:
        for module, training in modes:
            module.training = training
    if not isinstance(losses, Mapping) or "total" not in losses:
        raise ValueError("the policy's loss returns no 'total', so there is nothing to train")
    if chunk is not None:
        _check_chunk(chunk, policy, facts)
    return [str(name) for name in losses]


def _check_chunk(chunk: Tensor, policy: Any, facts: Mapping[str, Any]) -> None:
    window, feature = facts.get("windows", {}).get("action"), facts.get("features", {}).get("action")
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
