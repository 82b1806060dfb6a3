"""Which observations a component wants: the names of its graph inputs say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from trainer.modeling.component import unwrap

PREFIX = "observation."


def input_name(feature: str) -> str:
    """Return the graph input of a feature: `observation.images.cam_head` → `images_cam_head`."""
    return feature.removeprefix(PREFIX).replace(".", "_")


def encoder_arguments(encoder: nn.Module, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return the observations of a batch that an encoder's graph inputs name.

    Args:
        encoder: a `GraphModel`, wrapped or not.
        batch: feature → tensor.

    Raises:
        ValueError: an input has no observation in the batch.
    """
    inputs = list(unwrap(encoder).inputs)  # type: ignore[arg-type]
    observed = [k for k in batch if k.startswith(PREFIX) and not k.endswith("_is_pad")]
    offered = {input_name(k): batch[k] for k in observed}
    missing = [name for name in inputs if name not in offered]
    if missing:
        raise ValueError(
            f"the encoder's graph input '{missing[0]}' has no observation; the batch has {', '.join(offered)}"
        )
    return {name: offered[name] for name in inputs}
