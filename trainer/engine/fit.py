"""The loop."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from model_constructor import random_source

from trainer.engine.experiment import Experiment
from trainer.engine.faults import Faults, check_gradients_came, explained_faults
from trainer.engine.run_folder import now, read_run_facts, write_first_batch, write_run_facts
from trainer.engine.stop import Stopped, StopRequest, WaitEnded
from trainer.engine.tracking import combine, single_number
from trainer.runtime.memory import peak_memory
from trainer.templates import Callback
from trainer.templates.reduced import plain
from trainer.utils.errors import TrainingFault
from trainer.utils.log import log
from trainer.utils.progress import progress_bar
from trainer.utils.seed import kept_random_state
from trainer.utils.text import what_it_is


def fit(experiment: Experiment) -> None:
    """Train from where the experiment stands to its end.

    Every rank runs this; rank 0 shows the progress. What is recorded is on disk when the function returns,
    also when it is interrupted.

    Raises:
        Stopped: SIGTERM, SIGINT or SIGHUP came; the step was finished and the run saved.
        NonFiniteError: the loss or the weights are inf or NaN; the checkpoints are from before.
        CheckpointError: a checkpoint could not be written; those before it are whole.
        TrainingFault: memory, a loader worker or the run folder is gone, and what to do.
    """
    e = experiment
    started, begun = time.perf_counter(), e.progress.iteration
    ended = e.runtime.from_main(read_run_facts(e.run).get("finished"))
    # A loader worker that is killed makes itself felt anywhere in this thread, not only where batches come.
    with explained_faults(e) as faults, _bar(e) as bar, StopRequest(e.runtime) as stop:
        with kept_random_state():
            for callback in e.callbacks:
                callback.before_training(e)
        pace = Pace(e)
        if e.saving.unmeasured and (e.finished or _at_epoch_start(e)):
            with pace.paused():
                _measure(e)
        while not e.finished:
            for metrics in updates(e, faults, stop, started):
                rates = pace.tick()
                per_epoch = e.batches.steps_per_epoch
                position = {} if per_epoch is None else {"epoch": e.progress.iteration / per_epoch}
                e.tracker.record(e.progress.iteration, metrics, {**position, **rates})
                e.progress.iteration += 1
                e.writer.check()
                _look_on(e, metrics)
                if rates:
                    bar.set_postfix(pace.shown(rates), refresh=False)
                bar.update()
                if not _at_epoch_end(e) and e.progress.iteration < e.total_steps:
                    if _due_within_epoch(e):
                        with pace.paused():
                            e.save()
                            e.tracker.check()
                    _stop_if_asked(e, stop, started)
            if _at_epoch_end(e):
                e.progress.epoch += 1
            with pace.paused():
                _end_epoch(e)
            if not e.finished:
                _stop_if_asked(e, stop, started, at_once=True)
        e.tracker.flush()
        e.writer.wait()
        if e.progress.iteration > begun or not ended:
            for callback in e.callbacks:
                callback.after_training(e)
            _note_time(e, started, now())
    if e.stop_reason is not None:
        log.info(f"Ended after {e.progress.iteration} updates: {e.stop_reason}.")


def updates(
    e: Experiment, faults: Faults, stop: StopRequest | None = None, started: float = 0.0
) -> Iterator[Mapping[str, Any]]:
    """Make the updates that are left of this epoch and of the run, and yield the metrics of each.

    Args:
        e: the run.
        faults: takes what a report of a fault speaks of.
        stop: what ends the waiting for a batch; nothing does if not given.
        started: when this process began to train.
    """
    done = e.progress.iteration - e.progress.epoch * (e.batches.steps_per_epoch or 0)
    left = e.total_steps - e.progress.iteration
    if e.batches.steps_per_epoch is not None:
        left = min(left, e.batches.steps_per_epoch - done)
    batches = e.batches.epoch(e.progress.epoch, start_step=done)
    for _ in range(left):
        of_micro_batches = []
        for micro_batch in range(e.batches.micro_batches):
            try:
                drawn = next(batches)
            except WaitEnded:
                if stop is None:
                    raise
                _stop(e, stop.number, started)
            batch = faults.batch = e.augmented(drawn, micro_batch)
            if e.progress.iteration == 0 and micro_batch == 0 and e.runtime.is_main:
                write_first_batch(e.run, batch)
            context = e.context(micro_batch)
            with e.runtime.autocast(), random_source(context.random):
                metrics = e.trainer.train_step(batch, **e.step_arguments(context))
            if not isinstance(metrics, Mapping):
                trainer = e.config.train.trainer.type
                raise TrainingFault(_wants_numbers(f"the train_step of trainer '{trainer}'", metrics))
            if e.batch_metrics is not None:
                metrics = {**metrics, **e.batch_metrics(batch)}
            of_micro_batches.append(metrics)
        if not faults.gradients_seen:
            check_gradients_came(e)
            faults.gradients_seen = True
        yield combine(of_micro_batches)


def _wants_numbers(whose: str, returned: Any) -> str:
    return f"{whose} returned {what_it_is(returned)}; it must return a dict of name → number"


def _look_on(e: Experiment, metrics: Mapping[str, Any]) -> None:
    """Show an update to callbacks and loggers; a run of one process is saved when one of them fails.

    Among ranks only one of them may know.
    """
    try:
        if e.callbacks:
            values = {name: plain(metric) for name, metric in metrics.items()}
            for callback in e.callbacks:
                callback.after_step(e, values)
        if not e.runtime.distributed:
            e.tracker.check()
    except Exception:
        if not e.runtime.distributed:
            with contextlib.suppress(Exception):  # the run may be what has failed: it says so
                e.save()
                e.writer.wait()
        raise


def _at_epoch_end(e: Experiment) -> bool:
    per_epoch = e.batches.steps_per_epoch
    return per_epoch is not None and e.progress.iteration == (e.progress.epoch + 1) * per_epoch


def _due_within_epoch(e: Experiment) -> bool:
    every = e.config.train.checkpoint.save_every_n_steps
    return every is not None and e.progress.iteration % every == 0


def _at_epoch_start(e: Experiment) -> bool:
    per_epoch = e.batches.steps_per_epoch
    return per_epoch is not None and e.progress.iteration == e.progress.epoch * per_epoch


def _end_epoch(e: Experiment) -> None:
    """Save, then measure: nothing that fails there costs the epoch."""
    due = _at_epoch_start(e) and e.progress.epoch % e.config.train.save_every == 0
    e.tracker.flush()
    due = due or _due_within_epoch(e) or _due_at_end(e) or e.runtime.largest(int(e.tracker.has_failed)) > 0
    e.saving.save_before_measuring(due)
    e.tracker.check()
    _measure(e)


def _measure(e: Experiment) -> None:
    """Let the callbacks look at the run as it is at the end of an epoch, and note what they found."""
    e.scores = {}
    with kept_random_state():
        for callback in e.callbacks:
            e.scores.update(_scores(callback, e.runtime.from_main(callback.after_epoch(e))))
    e.saving.add_measured(e.scores, wanted=_due_at_end(e))


def _scores(callback: Callback, measured: Any) -> dict[str, float]:
    """Return what a callback has measured; it is the same on all ranks."""
    whose = f"the after_epoch of callback {type(callback).__name__}"
    if measured is not None and not isinstance(measured, Mapping):
        raise TrainingFault(_wants_numbers(whose, measured))
    try:
        return {name: float(single_number(value)) for name, value in (measured or {}).items()}
    except ValueError as error:
        raise TrainingFault(f"{whose} measured {error}; it must return a dict of name → number") from None


def _due_at_end(e: Experiment) -> bool:
    return e.finished and e.config.train.checkpoint.save_last


def _stop_if_asked(e: Experiment, stop: StopRequest, started: float, at_once: bool = False) -> None:
    """Save and stop on a signal; ranks ask each other where their metrics meet anyway, or `at_once`."""
    number = stop.number
    if e.runtime.distributed:
        meets = at_once or e.progress.iteration % e.tracker.every == 0
        number = e.runtime.largest(number) if meets else 0
    if number:
        _stop(e, number, started)


def _stop(e: Experiment, number: int, started: float) -> NoReturn:
    """Save the run as it is, and end it."""
    e.save()
    e.writer.wait()
    _note_time(e, started, None)
    raise Stopped(number)


def _note_time(e: Experiment, started: float, finished: str | None) -> None:
    """Add the time of this process to that of the run, and the memory that it took."""
    if e.runtime.is_main:
        known = read_run_facts(e.run)
        seconds = known.get("train_seconds", 0.0) + time.perf_counter() - started
        before = known.get("peak_memory", {})
        peak = {k: max(size, before.get(k, 0)) for k, size in peak_memory(e.runtime.device).items()}
        facts = {"finished": finished, "iterations": e.progress.iteration, "train_seconds": seconds}
        write_run_facts(e.run, {**facts, "peak_memory": peak})


def _bar(e: Experiment) -> Any:
    return progress_bar(
        e.total_steps,
        e.config.train.project_name,
        unit="step",
        initial=e.progress.iteration,
        disable=not e.runtime.is_main or e.finished,  # of a finished run only what was not measured is left
    )


class Pace:
    """How fast training goes and how much of the time it waits for data, over each logging window."""

    def __init__(self, experiment: Experiment) -> None:
        self.e = experiment
        self.every = experiment.config.train.log_every_n_steps
        self.samples = experiment.batches.samples_per_update
        self._validation: float | None = None
        self.restart()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Let what the block does, such as saving and evaluating, not count as training."""
        begun = time.perf_counter()
        yield
        self._since += time.perf_counter() - begun

    def restart(self) -> None:
        """Begin a new window."""
        self._steps = 0
        self._since = time.perf_counter()
        self._waited = self.e.batches.wait_seconds

    def tick(self) -> dict[str, float]:
        """Count a step; at the end of a window return its samples per second and share of waiting."""
        self._steps += 1
        if self._steps < self.every:
            return {}
        elapsed = max(time.perf_counter() - self._since, 1e-9)
        rates = {
            "samples_per_s": self._steps * self.samples / elapsed,
            "data_wait": (self.e.batches.wait_seconds - self._waited) / elapsed,
        }
        self.restart()
        return rates

    def shown(self, rates: dict[str, float]) -> dict[str, str]:
        """Return what stands behind the progress bar.

        Of the metrics that is the total loss; where there is none, the first that is a loss by its name, or
        else the first that the trainer returned. Of the last validation, its total loss.
        """
        last = self.e.tracker.last
        returned = [name for name in last if name not in ("step", "epoch", *rates)]
        losses = [name for name in returned if "loss" in name.lower()]
        shown = ["total"] if "total" in last else (losses or returned)[:1]
        self._validation = self.e.scores.get("validation/total", self._validation)
        return {
            "epoch": f"{self.e.progress.epoch + 1}/{self.e.total_epochs}",
            **{"loss" if name == "total" else name: f"{last[name]:.4f}" for name in shown},
            **({} if self._validation is None else {"validation": f"{self._validation:.4f}"}),
            "samples/s": f"{rates['samples_per_s']:,.0f}",
            "waiting": f"{rates['data_wait']:.1%}",
        }
