"""Which observations a component wants: the names of its graph inputs say it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from trainer.modeling.component import unwrap

PREFIX = "observation."

NOT_OBSERVED = frozenset(
    {"action", "task", "dataset_index"} | {"timestamp", "frame_index", "episode_index", "index", "task_index"}
)
"""What a batch holds beside observations; no robot measures it."""


def input_name(feature: str) -> str:
    """Return the graph input of a feature: `observation.images.cam_head` → `images_cam_head`."""
    return feature.removeprefix(PREFIX).replace(".", "_")


def encoder_arguments(
    encoder: nn.Module, batch: Mapping[str, Any], given: Collection[str] = ()
) -> dict[str, Any]:
    """Return the observations of a batch that an encoder's graph inputs name.

    Args:
        encoder: a `GraphModel`, wrapped or not.
        batch: feature → tensor.
        given: graph inputs that are no observations, which the caller adds.

    Raises:
        ValueError: an input has no observation in the batch.
    """
    inputs = [name for name in unwrap(encoder).inputs if name not in given]  # type: ignore[union-attr]
    names = [k for k in batch if k not in NOT_OBSERVED and not k.endswith("_is_pad")]
    # Where a name comes with and without the prefix, that with the prefix counts.
    offered = {input_name(k): k for k in sorted(names, key=lambda name: name.startswith(PREFIX))}
    missing = [name for name in inputs if name not in offered]
    if missing:
        raise ValueError(
            f"the encoder's graph input '{missing[0]}' has no observation; the batch has "
            f"{', '.join(input_name(k) for k in names)}"
        )
    return {name: batch[offered[name]] for name in inputs}
