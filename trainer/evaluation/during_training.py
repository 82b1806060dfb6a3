"""Evaluating the policy every so many epochs while it trains."""

from __future__ import annotations

import json

import click

from trainer.config.schemas import EvaluationConfig, ExperimentConfig
from trainer.config.validation import Issues
from trainer.engine.experiment import Experiment
from trainer.engine.tracking import EVALUATIONS
from trainer.evaluation.evaluate import evaluate
from trainer.evaluation.simulators import make_simulator


def check_evaluation(issues: Issues, config: ExperimentConfig) -> None:
    """Make sure before training that the simulator of `train.evaluation` is there."""
    if config.train.evaluation is None:
        return
    try:
        make_simulator(config.train.evaluation.env).close()
    except ValueError as error:
        issues.add(("train", "evaluation", "env"), str(error))


class EvaluationCallback:
    """Rolls the deployed weights out on rank 0 and notes the result; the other ranks wait.

    Args:
        settings: the `train.evaluation` section, or None for no evaluation.
    """

    def __init__(self, settings: EvaluationConfig | None) -> None:
        self.settings = settings

    def after_epoch(self, experiment: Experiment) -> None:
        """Evaluate when this epoch is due, and after the last one."""
        settings, epoch = self.settings, experiment.progress.epoch
        last = epoch == experiment.config.train.epoch
        if settings is None or not (last or epoch % settings.every_n_epochs == 0):
            return
        if experiment.runtime.is_main:
            self._evaluate(experiment, settings)
        experiment.runtime.barrier()

    def _evaluate(self, experiment: Experiment, settings: EvaluationConfig) -> None:
        policy = experiment.deployed_policy()
        if policy is None:
            return
        epoch = experiment.progress.epoch
        folder = f"evaluations/epoch_{epoch}"
        result = evaluate(
            policy,
            settings.env,
            episodes=settings.episodes,
            seed=settings.seed,
            out=experiment.run / folder,
            videos=settings.videos,
            checkpoint=f"epoch_{epoch}",
        )
        click.echo(f"Epoch {epoch}: {result.summary()}", err=True)
        facts = result.to_dict()
        names = ("env", "success_rate", "success_interval", "mean_score", "score_interval", "mean_length")
        line = {
            "step": experiment.progress.iteration,
            "epoch": epoch,
            "episodes": settings.episodes,
            **{name: facts[name] for name in names},
            "folder": folder,
        }
        with (experiment.run / EVALUATIONS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
