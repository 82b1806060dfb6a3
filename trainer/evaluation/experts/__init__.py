"""Experts who label what a policy visits or take over from it: `scripted`, `keyboard`, those of plugins."""

from __future__ import annotations

from typing import Any

import numpy as np
from model_constructor import did_you_mean

from trainer.config.component import ComponentSpec
from trainer.evaluation.experts import keyboard, scripted
from trainer.registry import EXPERT_REGISTRY
from trainer.templates import Expert
from trainer.utils.errors import UsageError
from trainer.utils.import_utils import instantiate

__all__ = ["keyboard", "make_expert", "scripted"]


def make_expert(spec: ComponentSpec, action_range: np.ndarray | None = None) -> Expert:
    """Return a new expert.

    Args:
        spec: of `online.expert`; its type is a key of the expert registry.
        action_range: how far apart the largest and the smallest action of the demonstrations are, `(A,)`, for
            a constructor that names it.

    Raises:
        UsageError: there is no such expert, or it does not take these parameters.
    """
    if not EXPERT_REGISTRY.has(spec.type):
        hint = did_you_mean(spec.type, EXPERT_REGISTRY.keys(), "registered:", "is its module under plugins?")
        raise UsageError(f"no expert is registered as '{spec.type}'; {hint}")
    offered: dict[str, Any] = {} if "action_range" in spec.params else {"action_range": action_range}
    try:
        return instantiate(EXPERT_REGISTRY.get(spec.type), spec.params, **offered)
    except (TypeError, ValueError) as error:
        raise UsageError(f"the expert '{spec.type}' cannot be made: {error}") from error
