"""A callback: how far every trained component has moved from where it started.

Put `examples.extensions.weight_norms` under `plugins` and this into the experiment::

    train:
      callbacks:
        - { type: distance_travelled }
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trainer.registry import CALLBACK_REGISTRY
from trainer.templates import Callback

FILE = "distances.jsonl"


@CALLBACK_REGISTRY.register("distance_travelled")
class DistanceTravelled(Callback):
    """Measures the L2 distance of the weights from the first ones, at the end of each epoch.

    The numbers go to `<run>/distances.jsonl` and to the loggers, and `train.checkpoint.best` and other
    callbacks can refer to them as `distance/<component>`.

    Args:
        components: which components; all that are trained by default.
    """

    def __init__(self, components: list[str] | None = None) -> None:
        self.components = components
        self.start: dict[str, Tensor] = {}

    def before_training(self, experiment: Any) -> None:
        """Keep the first weights; a run that is taken up brings them along."""
        if not self.start:
            self.start = {name: _flat(state) for name, state in self._chosen(experiment)}

    def after_epoch(self, experiment: Any) -> dict[str, float]:
        """Measure."""
        distances = {
            f"distance/{name}": float((_flat(state) - self.start[name]).norm())
            for name, state in self._chosen(experiment)
        }
        facts = {"step": experiment.progress.iteration, "epoch": experiment.progress.epoch}
        experiment.tracker.note(FILE, facts, distances)
        return distances

    def _chosen(self, experiment: Any) -> list[tuple[str, Mapping[str, Tensor]]]:
        wanted = self.components or list(experiment.optimizers)
        return [(name, experiment.components[name].full_state()) for name in wanted]

    def state_dict(self) -> dict[str, Any]:
        """Return the first weights."""
        return {"start": self.start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.start = state["start"]


def _flat(state: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([value.detach().float().cpu().reshape(-1) for value in state.values()])
