"""The loss and other measures on episodes that are kept from training."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from model_constructor import random_source
from torch import Tensor

from trainer.config.schemas import ValidationConfig
from trainer.engine.experiment import Experiment
from trainer.engine.tracking import VALIDATIONS
from trainer.templates import Callback, Context, Metric
from trainer.templates.reduced import plain
from trainer.utils.errors import TrainingFault
from trainer.utils.log import log
from trainer.utils.random import RowRandom
from trainer.utils.text import what_it_is

_VALIDATION = 0x7A11
"""Sets these numbers apart from others of the run's seed."""

_Found = TypeVar("_Found")


class Validation(Callback):
    """Measures the weights that would be deployed on the validation episodes, every so many epochs.

    Every sample counts once and with the same noise each time, in whatever batch and on whatever rank it is
    measured, so that numbers of different epochs and runs compare. Ranks share the batches.

    Args:
        settings: the `data.validation` section.
        metrics: name → what is measured beside the policy's losses.
    """

    def __init__(self, settings: ValidationConfig, metrics: Mapping[str, Metric]) -> None:
        self.settings = settings
        self.metrics = metrics

    def after_epoch(self, experiment: Experiment) -> dict[str, float] | None:
        """Validate when this epoch is due, and at the end of the run."""
        e = experiment
        if not (e.finished or e.progress.epoch % self.settings.every_n_epochs == 0):
            return None
        totals = self._measure(e)
        scores: dict[str, float] = e.runtime.from_main(_means(e.runtime.gather(totals)))
        facts = {"step": e.progress.iteration, "epoch": e.progress.epoch}
        e.tracker.note(VALIDATIONS, facts, scores)
        if e.finished:
            shown = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
            log.info(f"On the validation episodes after epoch {e.progress.epoch}: {shown}.")
        return scores

    def _measure(self, e: Experiment) -> dict[str, tuple[float, float]]:
        """Return name → sum and number of samples, over the batches of this rank."""
        policy = e.deployed_objective()
        assert policy is not None, "the check asks for a policy class"
        assert e.validation_data is not None
        # Among ranks without shared batch norms each has statistics of its own; those of rank 0 are deployed.
        e.runtime.copy_from_main(list(policy.buffers()))
        sums: dict[str, Tensor] = {}
        for rows in self._batches(e):
            batch = e.validation_data.sample(rows)
            for name, values in self._values(e, policy, batch, rows).items():
                counted = values.isfinite() if values.ndim else torch.ones((), device=values.device)
                weight = len(rows) if values.ndim == 0 else 1
                part = torch.stack(
                    [torch.where(counted.bool(), values, 0).sum() * weight, counted.sum() * weight]
                )
                sums[name] = sums[name] + part if name in sums else part
        names = list(sums)
        rows_of = torch.stack([sums[n] for n in names]).tolist() if names else []
        return {name: (total, count) for name, (total, count) in zip(names, rows_of, strict=True)}

    def _values(
        self, e: Experiment, policy: Any, batch: dict[str, Any], rows: np.ndarray
    ) -> dict[str, Tensor]:
        """Return the losses of a batch as scalars and its metrics as numbers per sample, in float64."""

        first = int(np.random.SeedSequence([e.config.run_seed, _VALIDATION]).generate_state(1)[0])

        def measured(measure: Callable[[Context], _Found]) -> _Found:
            random = RowRandom((first + rows).tolist(), e.runtime.device)
            with random_source(random):
                return measure(Context(random, step=e.progress.iteration))

        with torch.no_grad(), e.runtime.autocast():
            found = dict(measured(functools.partial(policy.loss, batch)))
            for name, metric in self.metrics.items():
                found[name] = measured(functools.partial(metric.measure, policy, batch))
                if np.shape(found[name]) not in ((), (len(rows),)) or found[name] is None:
                    raise TrainingFault(
                        f"metric '{name}' measured {what_it_is(found[name])} of {len(rows)} samples; it must "
                        "return a number for each, or one for all"
                    )
        return {f"validation/{name}": torch.as_tensor(plain(value)).double() for name, value in found.items()}

    def _batches(self, e: Experiment) -> Iterator[np.ndarray]:
        """Yield the samples of this rank's batches."""
        assert e.validation_data is not None
        length, size = e.validation_data.sampler.length, e.config.data.batch_size
        count = -(-length // size)
        wanted = min(self.settings.batches or count, count)
        numbers = np.linspace(0, count - 1, wanted).round().astype(int)
        for number in numbers[e.runtime.rank :: e.runtime.world_size].tolist():
            yield np.arange(number * size, min((number + 1) * size, length))


def _means(totals: Sequence[Mapping[str, tuple[float, float]]]) -> dict[str, float]:
    """Return name → mean over the samples of all ranks."""
    names = dict.fromkeys(name for one in totals for name in one)
    means = {}
    for name in names:
        pairs = [one[name] for one in totals if name in one]
        count = sum(n for _, n in pairs)
        means[name] = sum(total for total, _ in pairs) / count if count else float("nan")
    return means
