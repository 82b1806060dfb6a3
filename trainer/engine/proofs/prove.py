"""Proving a run: two updates in a temporary folder, and everything that it promises measured on them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from trainer.config.errors import ConfigError
from trainer.config.validation import Issues
from trainer.engine.build_data import Data
from trainer.engine.check import CheckedConfig
from trainer.engine.proofs.asking import Answer
from trainer.engine.proofs.augmentation import augmentation_claims
from trainer.engine.proofs.claim import Claim, not_applicable, note_faults
from trainer.engine.proofs.data import data_claims
from trainer.engine.proofs.deployment import deployment_claims
from trainer.engine.proofs.loss import loss_claims
from trainer.engine.proofs.order import order_claims
from trainer.engine.proofs.pace import seconds_per_update
from trainer.engine.proofs.prediction import prediction_claims
from trainer.engine.proofs.resume import resume_claims
from trainer.engine.proofs.schedule import schedule_claims
from trainer.engine.proofs.terms import term_claims
from trainer.engine.proofs.trial import trial
from trainer.engine.proofs.weights import weight_claims
from trainer.engine.proofs.windows import window_claims
from trainer.engine.rehearsal import explain


@dataclass(frozen=True)
class Proof:
    """What was measured.

    Attributes:
        claims: every one, with its number.
        updates: that were made.
        samples: of a micro-batch of them.
        seconds_per_update: of the run here, on the CPU in fp32.
        pace_samples: samples of a micro-batch with which that was measured.
        seconds: that all of it took.
        warnings: what the run said meanwhile.
    """

    claims: Sequence[Claim]
    updates: int
    samples: int
    seconds_per_update: float
    pace_samples: int
    seconds: float
    warnings: Sequence[str]

    def error(self, checked: CheckedConfig) -> ConfigError | None:
        """Return the claims that fail as mistakes in the configuration; None if all hold."""
        issues = Issues(checked.located)
        note_faults(issues, self.claims)
        return ConfigError(issues.found) if issues.found else None


def prove(checked: CheckedConfig, data: Data, ranks: int = 1) -> Proof:
    """Make the first updates of a run in a temporary folder and measure what it promises.

    The run is put together and trained by what trains it for real, with a few samples an update, on the CPU
    in fp32, without loggers and torch.compile. Nothing of the run folder is touched.

    Args:
        checked: the configuration, for so many ranks.
        data: what it trains on.
        ranks: that would train it.

    Raises:
        ConfigError: the run cannot be put together, or an update fails.
        TrainingFault: as in training.
    """
    since = time.perf_counter()
    claims = [*_measured("data", lambda: data_claims(data))]
    claims += _measured("data", lambda: window_claims(data))
    claims += _measured("order", lambda: order_claims(checked, data, ranks))
    total_steps = checked.config.total_steps(data.steps_per_epoch)
    with trial(checked, data) as begun:
        updates = begun.experiment.progress.iteration
        claims += _measured("schedule", lambda: schedule_claims(begun, total_steps))
        claims += _measured("weights", lambda: weight_claims(begun))
        claims += _measured("augmentation", lambda: augmentation_claims(begun))
        claims += _measured("loss", lambda: loss_claims(begun))
        claims += _measured("loss", lambda: term_claims(begun))
        answer = Answer(begun)
        claims += _measured("deployment", lambda: deployment_claims(begun, answer))
        claims += _measured("prediction", lambda: prediction_claims(begun, answer))
        claims += _measured("resuming", lambda: resume_claims(begun))
        samples, said = begun.samples, begun.said
        pace, measured = seconds_per_update(begun, checked.config.data.batch_size)
    return Proof(claims, updates, samples, pace, measured, time.perf_counter() - since, said)


def _measured(about: str, claims: Callable[[], Iterator[Claim]]) -> Iterator[Claim]:
    """Yield claims; where a plugin does not let itself be measured, say so."""
    try:
        yield from claims()
    except ConfigError:
        raise
    except (ValueError, RuntimeError, TypeError, KeyError, IndexError, AttributeError) as error:
        reason = f"it cannot be measured: {type(error).__name__}: {explain(error)}"
        yield not_applicable(about, "the other claims of this group", reason)
