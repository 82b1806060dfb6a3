"""Which observations a component wants: the names of its graph inputs say it."""

from __future__ import annotations

import functools
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


class MissingObservation(ValueError):
    """A component's graph input is called like no observation of the batch.

    Attributes:
        module: the component, unwrapped.
        input: the graph input.
    """

    def __init__(self, module: nn.Module, input: str, offered: Collection[str]) -> None:
        super().__init__(
            f"the encoder's graph input '{input}' has no observation; the batch has {', '.join(offered)}"
        )
        self.module = module
        self.input = input


def encoder_arguments(
    encoder: nn.Module, batch: Mapping[str, Any], given: Collection[str] = ()
) -> dict[str, Any]:
    """Return the observations of a batch that an encoder's graph inputs name.

    Args:
        encoder: a `GraphModel`, wrapped or not.
        batch: feature → tensor.
        given: graph inputs that are no observations, which the caller adds.

    Raises:
        MissingObservation: an input has no observation in the batch.
    """
    module = unwrap(encoder)
    inputs = tuple(name for name in module.inputs if name not in given)  # type: ignore[union-attr]
    features = _features(inputs, tuple(batch))
    missing = [name for name, feature in zip(inputs, features, strict=True) if feature is None]
    if missing:
        raise MissingObservation(module, missing[0], [input_name(k) for k in batch if _is_observed(k)])
    return {name: batch[feature] for name, feature in zip(inputs, features, strict=True) if feature}


@functools.lru_cache(maxsize=256)
def _features(inputs: tuple[str, ...], names: tuple[str, ...]) -> tuple[str | None, ...]:
    """Return which feature of a batch each input takes, None where there is none."""
    # Where a name comes with and without the prefix, that with the prefix counts.
    observed = sorted(filter(_is_observed, names), key=lambda name: name.startswith(PREFIX))
    offered = {input_name(name): name for name in observed}
    return tuple(offered.get(name) for name in inputs)


def _is_observed(name: str) -> bool:
    return name not in NOT_OBSERVED and not name.endswith("_is_pad")
