"""Callbacks for every experiment."""

from __future__ import annotations

import math
from typing import Any, Literal

import click

from trainer.engine.experiment import Experiment
from trainer.registry import CALLBACK_REGISTRY
from trainer.templates import Callback


@CALLBACK_REGISTRY.register("early_stopping")
class EarlyStopping(Callback):
    """Ends a run when a measure has not improved for some time.

    Args:
        metric: what is watched, such as `validation/total` or `success_rate`.
        mode: whether less or more of it is better.
        patience: measurements without improvement after which the run ends.
        min_delta: smallest change that counts as an improvement.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        metric: str = "validation/total",
        mode: Literal["min", "max"] = "min",
        patience: int = 3,
        min_delta: float = 0.0,
    ) -> None:
        if patience < 1 or min_delta < 0:
            raise ValueError("patience must be at least 1 and min_delta not negative")
        self.metric = metric
        self.sign = 1.0 if mode == "min" else -1.0
        self.patience = patience
        self.min_delta = min_delta
        self.best = math.inf
        self.waited = 0

    def watches(self) -> list[str]:
        """Wait for one measure."""
        return [self.metric]

    def measures(self) -> list[str]:
        """Measure nothing."""
        return []

    def before_training(self, experiment: Experiment) -> None:
        """Do not go on with a run that was ended."""
        self._stop(experiment)

    def after_epoch(self, experiment: Experiment) -> None:
        """Look at what was measured after this epoch, if anything was."""
        value = experiment.scores.get(self.metric)
        if value is None:
            return
        if self.sign * value < self.best - self.min_delta:
            self.best, self.waited = self.sign * value, 0
        else:
            self.waited += 1
        self._stop(experiment)

    def _stop(self, experiment: Experiment) -> None:
        if self.waited >= self.patience:
            missed = "was never a finite number"
            if math.isfinite(self.best):
                missed = f"has not improved on {self.sign * self.best:.6g}"
            experiment.stop_reason = f"{self.metric} {missed} in {self.waited} measurements"

    def after_training(self, experiment: Experiment) -> None:
        """Say so where nothing measured what was watched."""
        if math.isinf(self.best) and not self.waited and experiment.runtime.is_main:
            click.echo(f"Warning: early_stopping watched '{self.metric}', which nothing measured.", err=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the best value so far and how long ago it was."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.best, self.waited = state["best"], state["waited"]
