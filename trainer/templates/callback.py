"""What a callback plugin provides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class Callback:
    """Something that happens beside training; a plugin overrides what it needs.

    Every rank calls every callback, in the order of the configuration. What a callback draws from the global
    random generators does not change the training, except in `after_step`, which had better draw nothing.
    `experiment` is a `trainer.engine.experiment.Experiment`; a callback that sets its `stop_reason`, on every
    rank alike, ends the run after the present epoch.
    """

    def watches(self) -> Sequence[str]:
        """Return the measures that this callback waits for; names that nobody measures are refused."""
        return ()

    def measures(self) -> Sequence[str] | None:
        """Return the names that `after_epoch` returns; None where they are not known before training."""
        return () if type(self).after_epoch is Callback.after_epoch else None

    def before_training(self, experiment: Any) -> None:
        """Act once the run is put together or taken up, before the first step."""

    def after_step(self, experiment: Any, metrics: Mapping[str, Any]) -> None:
        """Act after an update. `metrics` are tensors on the device; reading one waits for it."""

    def after_epoch(self, experiment: Any) -> Mapping[str, float] | None:
        """Act when an epoch or the run is complete; a checkpoint of it has been taken before.

        A run that is killed meanwhile does this again when it is taken up.

        Returns:
            What was measured, for `train.checkpoint.best` and for the callbacks after this one; those of
            rank 0 count.
        """
        return None

    def after_training(self, experiment: Any) -> None:
        """Act when the run has come to its end and is saved."""

    def state_dict(self) -> dict[str, Any]:
        """Return what this callback needs to go on after a restart: tensors, numbers, texts, lists, dicts."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
