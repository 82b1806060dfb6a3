"""How long an update of the run takes here, measured with as many of its samples as a few seconds allow."""

from __future__ import annotations

import time

from trainer.engine.proofs.trial import FewSamples, Trial, next_update

SECONDS = 4.0


def seconds_per_update(trial: Trial, samples: int) -> tuple[float, int]:
    """Return the time of an update with so many samples in a micro-batch, and the number that was measured.

    An update takes a time of its own and one for each sample; two sizes tell both. The trial is two updates
    further afterwards.
    """
    few = trial.samples
    short = _timed(trial, few)
    many = max(few, min(samples, int(few * SECONDS / short)))
    if many == few:
        return short * samples / few, few
    each = (_timed(trial, many) - short) / (many - few)
    return short + max(each, 0.0) * (samples - few), many


def _timed(trial: Trial, samples: int) -> float:
    experiment = trial.experiment
    assert isinstance(experiment.batches, FewSamples)
    experiment.batches.samples = samples
    since = time.perf_counter()
    next_update(experiment)
    return time.perf_counter() - since
