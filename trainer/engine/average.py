"""Exponential moving averages of weights: the one that is deployed, and teachers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trainer.modeling.component import Component


class Average:
    """Keeps the moving average of a component's state.

    After update n (from 0) the average moves by `1 - min(decay, (1 + n) / (10 + n))`: the first weights,
    which mean nothing, are forgotten quickly. Floating tensors are averaged, others (counters, masks) are
    copied. Every rank averages what it holds.

    Args:
        component: whose weights are averaged.
        decay: share of the average that an update keeps.
        into: the tensors that hold the average, at first equal to the weights; new ones if not given.
        warm_up: forget the first weights quickly, as above; else `decay` holds from the first update on.
    """

    def __init__(
        self, component: Component, decay: float, into: dict[str, Tensor] | None = None, warm_up: bool = True
    ) -> None:
        self.decay = decay
        self.updates = 0
        self._component = component
        self._warm_up = warm_up
        live = component.local_state()
        self._weights = into or {key: value.clone() for key, value in live.items()}
        pairs = [(self._weights[key], live[key]) for key in live]
        averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._averaged, self._followed = [a for a, _ in averaged], [w for _, w in averaged]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the present weights."""
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self._warm_up else self.decay
        torch._foreach_lerp_(self._averaged, self._followed, 1 - keep)
        for average, live in self._copied:
            average.copy_(live)
        self.updates += 1

    def full(self) -> dict[str, Tensor]:
        """Return the averaged state, whole. All ranks meet."""
        return self._component.gather(self._weights)

    def state_dict(self) -> dict[str, Any]:
        """Return the average, whole, and its age. All ranks meet."""
        return {"updates": self.updates, "weights": self.full()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.updates = int(state["updates"])
        for key, value in self._component.scatter(state["weights"]).items():
            self._weights[key].copy_(value)
