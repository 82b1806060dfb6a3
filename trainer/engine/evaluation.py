"""Evaluating the policy every so many epochs while it trains."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.config.schemas import EvaluationConfig
from trainer.engine.experiment import Experiment
from trainer.engine.tracking import EVALUATIONS
from trainer.evaluation.evaluate import evaluate
from trainer.templates import Callback
from trainer.utils.log import log

SCORES = ("success_rate", "mean_score")


class EvaluationCallback(Callback):
    """Rolls the deployed weights out, shared among the ranks, and notes the result.

    Args:
        settings: the `train.evaluation` section, or None for no evaluation.
    """

    def __init__(self, settings: EvaluationConfig | None) -> None:
        self.settings = settings

    def measures(self) -> Sequence[str]:
        """Return the scores of an evaluation."""
        return SCORES if self.settings is not None else ()

    def after_epoch(self, experiment: Experiment) -> dict[str, float] | None:
        """Evaluate when this epoch is due, and at the end of the run."""
        e, settings = experiment, self.settings
        if settings is None or not (e.finished or e.progress.epoch % settings.every_n_epochs == 0):
            return None
        policy = e.deployed_policy()
        if policy is None:
            return None
        # Among ranks without shared batch norms each has statistics of its own; those of rank 0 are deployed.
        e.runtime.copy_from_main(list(policy.policy.buffers()))
        folder = f"evaluations/{e.moment}"
        result = evaluate(
            policy,
            settings.env,
            episodes=settings.episodes,
            seed=settings.seed,
            out=e.run / folder,
            videos=settings.videos,
            checkpoint=e.moment,
            runtime=e.runtime,
        )
        log.info(f"{e.moment.replace('_', ' ').capitalize()}: {result.summary()}")
        facts = result.to_dict()
        names = ("env", "success_interval", "score_interval", "mean_length")
        line = {
            "step": e.progress.iteration,
            "epoch": e.progress.epoch,
            "episodes": settings.episodes,
            **{name: facts[name] for name in names},
            "folder": folder,
        }
        scores: dict[str, float] = {name: facts[name] for name in SCORES}
        e.tracker.note(EVALUATIONS, line, scores)
        return scores
