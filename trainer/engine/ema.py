"""Exponential moving average of the trained weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from trainer.modeling.prepare import is_trainable, unwrapped


class WeightAverage:
    """Keeps, for every trained component, the moving average of its state.

    After update n (from 0) the average moves by `1 - min(decay, (1 + n) / (10 + n))`: the first weights,
    which mean nothing, are forgotten quickly. Floating tensors are averaged, others (counters, masks) are
    copied.

    Args:
        models: the components; frozen ones have no average.
        decay: share of the average that an update keeps.

    Attributes:
        before_update: called before the average moves; whoever still copies it lets it wait.
    """

    def __init__(self, models: nn.ModuleDict, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.before_update: Callable[[], None] | None = None
        self._live: dict[str, dict[str, Tensor]] = {}
        self.weights: dict[str, dict[str, Tensor]] = {}
        for name, module in unwrapped(models):
            if is_trainable(module):
                self._live[name] = dict(module.state_dict())
                self.weights[name] = {k: v.clone() for k, v in self._live[name].items()}
        pairs = [
            (self.weights[name][key], live)
            for name, state in self._live.items()
            for key, live in state.items()
        ]
        self._averaged = [p for p in pairs if p[0].is_floating_point()]
        self._copied = [p for p in pairs if not p[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the present weights."""
        if self.before_update is not None:
            self.before_update()
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_([a for a, _ in self._averaged], [w for _, w in self._averaged], 1 - keep)
        for average, live in self._copied:
            average.copy_(live)
        self.updates += 1

    def state_dict(self) -> dict[str, object]:
        """Return the averages and their age."""
        return {"updates": self.updates, "weights": self.weights}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Take up what `state_dict` returned."""
        self.updates = int(state["updates"])  # type: ignore[call-overload]
        weights: dict[str, dict[str, Tensor]] = state["weights"]  # type: ignore[assignment]
        for name, tensors in weights.items():
            for key, value in tensors.items():
                self.weights[name][key].copy_(value)
