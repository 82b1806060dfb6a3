"""The loop."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from typing import Any, Protocol

from trainer.engine.experiment import Experiment
from trainer.engine.run_folder import now, read_run_facts, write_first_batch, write_run_facts
from trainer.engine.stop import Stopped, StopRequest
from trainer.utils.progress import progress_bar
from trainer.utils.seed import random_state, restore_random_state


class Callback(Protocol):
    """Something that happens beside training."""

    def after_epoch(self, experiment: Experiment) -> None:
        """Act when an epoch is complete and its checkpoint, if one is due, is being written."""
        ...


def fit(experiment: Experiment, callbacks: Sequence[Callback] = ()) -> None:
    """Train from where the experiment stands to its last epoch.

    Every rank runs this; rank 0 shows the progress. What is recorded is on disk when the function returns,
    also when it is interrupted.

    Raises:
        Stopped: SIGTERM or SIGINT came; the step was finished and the run saved.
    """
    e, train = experiment, experiment.config.train
    started, begun = time.perf_counter(), e.progress.iteration
    with _bar(e) as bar, StopRequest() as stop:
        pace = Pace(e)
        for epoch in range(e.progress.epoch, train.epoch):
            done = e.progress.iteration - epoch * e.loader.steps_per_epoch
            for batch in e.loader.epoch(epoch, start_step=done):
                batch = e.augmented(batch)
                if e.progress.iteration == 0 and e.runtime.is_main:
                    write_first_batch(e.run, batch)
                with e.runtime.autocast():
                    metrics = e.trainer.train_step(batch, **e.step_arguments())
                if e.batch_metrics is not None:
                    metrics = {**metrics, **e.batch_metrics(batch)}
                rates = pace.tick()
                position = e.progress.iteration / e.loader.steps_per_epoch
                e.tracker.record(e.progress.iteration, metrics, {"epoch": position, **rates})
                e.progress.iteration += 1
                if rates:
                    bar.set_postfix(pace.shown(rates), refresh=False)
                bar.update()
                if signal_number := _agreed(e, stop):
                    _note_time(e, started, None)
                    _save_and_stop(e, signal_number)
            e.progress.epoch = epoch + 1
            if e.progress.epoch % train.save_every == 0 or e.progress.epoch == train.epoch:
                e.save()
                pace.restart()
            if callbacks:
                _call(e, callbacks)
                pace.restart()
    e.tracker.flush()
    e.writer.wait()
    if e.progress.iteration > begun:
        _note_time(e, started, now())


def _call(e: Experiment, callbacks: Sequence[Callback]) -> None:
    """Let callbacks act; what they draw from the global generators does not change the training."""
    state = random_state()
    for callback in callbacks:
        callback.after_epoch(e)
    restore_random_state(state)


def _note_time(e: Experiment, started: float, finished: str | None) -> None:
    """Add the time of this process to that of the run."""
    if e.runtime.is_main:
        seconds = read_run_facts(e.run).get("train_seconds", 0.0) + time.perf_counter() - started
        write_run_facts(e.run, {"finished": finished, "train_seconds": seconds})


def _agreed(e: Experiment, stop: StopRequest) -> int:
    """Return the signal on which to stop now, or 0; ranks ask each other where their metrics meet anyway."""
    if not e.runtime.distributed:
        return stop.number
    return e.runtime.largest(stop.number) if e.progress.iteration % e.tracker.every == 0 else 0


def _save_and_stop(e: Experiment, signal_number: int) -> None:
    e.tracker.flush()
    e.save()
    e.writer.wait()
    raise Stopped(signal_number)


def _bar(e: Experiment) -> Any:
    return progress_bar(
        e.total_steps,
        e.config.train.project_name,
        unit="step",
        initial=e.progress.iteration,
        disable=not e.runtime.is_main,
    )


class Pace:
    """How fast training goes and how much of the time it waits for data, over each logging window."""

    def __init__(self, experiment: Experiment) -> None:
        self.e = experiment
        self.every = experiment.config.train.log_every_n_steps
        self.samples = experiment.config.data.batch_size * experiment.runtime.world_size
        self.restart()
        # Objects that live as long as the run are not worth looking at in every collection.
        gc.collect()
        gc.freeze()

    def restart(self) -> None:
        """Begin a new window, so that saving and evaluating do not count as training."""
        self._steps = 0
        self._since = time.perf_counter()
        self._waited = self.e.loader.wait_seconds

    def tick(self) -> dict[str, float]:
        """Count a step; at the end of a window return its samples per second and share of waiting."""
        self._steps += 1
        if self._steps < self.every:
            return {}
        elapsed = max(time.perf_counter() - self._since, 1e-9)
        rates = {
            "samples_per_s": self._steps * self.samples / elapsed,
            "data_wait": (self.e.loader.wait_seconds - self._waited) / elapsed,
        }
        self.restart()
        return rates

    def shown(self, rates: dict[str, float]) -> dict[str, str]:
        """Return what stands behind the progress bar."""
        loss = self.e.tracker.last.get("total")
        return {
            "epoch": f"{self.e.progress.epoch + 1}/{self.e.config.train.epoch}",
            **({} if loss is None else {"loss": f"{loss:.4f}"}),
            "samples/s": f"{rates['samples_per_s']:,.0f}",
            "waiting": f"{rates['data_wait']:.1%}",
        }
