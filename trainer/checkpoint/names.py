"""What the files of a run and of its checkpoints are called."""

from __future__ import annotations

import re

CONFIG = "config.yaml"
DATASET = "dataset.json"
MODELS = "models"
STATS = "dataset_stats.pkl"
MANIFEST = "manifest.json"
TRAINING_STATE = "training_state.pt"
OWN_STATE = "policy_state.pt"
MEASURED = "measured.pt"
"""Added to a complete checkpoint: what was measured at its moment, and what the callbacks made of it."""
LATEST = "latest"
BEST = "best"

_CHECKPOINT = re.compile(r"(epoch|step)_(\d{1,18})")


def checkpoint_name(epoch: int, iteration: int, steps_per_epoch: int | None) -> str:
    """Return `epoch_<N>` at the end of an epoch, `step_<N>` within one and in a run without epochs.

    Args:
        epoch: completed epochs.
        iteration: completed updates.
        steps_per_epoch: updates of an epoch; None in a run without epochs.
    """
    if steps_per_epoch is not None and iteration == epoch * steps_per_epoch:
        return f"epoch_{epoch}"
    return f"step_{iteration}"


def parse_checkpoint_name(name: str) -> tuple[str, int] | None:
    """Return kind (`epoch` or `step`) and number of a checkpoint's name; None for any other name."""
    match = _CHECKPOINT.fullmatch(name)
    return (match[1], int(match[2])) if match else None
