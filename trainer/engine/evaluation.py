"""Evaluating the policy every so many epochs while it trains."""

from __future__ import annotations

import click

from trainer.config.schemas import EvaluationConfig
from trainer.engine.experiment import Experiment
from trainer.engine.tracking import EVALUATIONS
from trainer.evaluation.evaluate import evaluate
from trainer.templates import Callback

SCORES = ("success_rate", "mean_score")


class EvaluationCallback(Callback):
    """Rolls the deployed weights out on rank 0 and notes the result; the other ranks wait.

    Args:
        settings: the `train.evaluation` section, or None for no evaluation.
    """

    def __init__(self, settings: EvaluationConfig | None) -> None:
        self.settings = settings

    def after_epoch(self, experiment: Experiment) -> dict[str, float] | None:
        """Evaluate when this epoch is due, and at the end of the run."""
        settings, epoch = self.settings, experiment.progress.epoch
        if settings is None or not (experiment.finished or epoch % settings.every_n_epochs == 0):
            return None
        scores = self._evaluate(experiment, settings) if experiment.runtime.is_main else None
        experiment.runtime.barrier()
        return scores

    def _evaluate(self, experiment: Experiment, settings: EvaluationConfig) -> dict[str, float] | None:
        policy = experiment.deployed_policy()
        if policy is None:
            return None
        epoch, moment = experiment.progress.epoch, experiment.moment
        folder = f"evaluations/{moment}"
        result = evaluate(
            policy,
            settings.env,
            episodes=settings.episodes,
            seed=settings.seed,
            out=experiment.run / folder,
            videos=settings.videos,
            checkpoint=moment,
        )
        click.echo(f"{moment.replace('_', ' ').capitalize()}: {result.summary()}", err=True)
        facts = result.to_dict()
        names = ("env", "success_interval", "score_interval", "mean_length")
        line = {
            "step": experiment.progress.iteration,
            "epoch": epoch,
            "episodes": settings.episodes,
            **{name: facts[name] for name in names},
            "folder": folder,
        }
        scores = {name: facts[name] for name in SCORES if facts[name] is not None}
        experiment.tracker.note(EVALUATIONS, line, scores)
        return scores
