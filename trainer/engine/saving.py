"""What a checkpoint holds of an experiment, and which one is best."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from trainer.checkpoint.folder import Snapshot, load_manifest, load_tensors, read_pointer
from trainer.checkpoint.host_memory import HostMemory, to_host
from trainer.checkpoint.names import (
    BEST,
    CONFIG,
    DATASET,
    MANIFEST,
    MEASURED,
    MODELS,
    OWN_STATE,
    STATS,
    TRAINING_STATE,
    parse_checkpoint_name,
)
from trainer.deployment.policy_parts import load_component, load_own_state, own_state
from trainer.engine.finite import check_weights
from trainer.engine.resume import is_in, set_aside_later
from trainer.engine.tracking import BESIDE, METRICS
from trainer.modeling.component import full_optimizer_state, load_optimizer_state
from trainer.utils.log import log
from trainer.utils.seed import random_state, restore_random_state, set_global_seed
from trainer.utils.versions import library_versions

if TYPE_CHECKING:
    from trainer.engine.experiment import Experiment

# What the run knows up to the moment of a checkpoint is on disk before the checkpoint counts.
RECORDS = (METRICS, *BESIDE)


class Saving:
    """Saves an experiment and takes it up again.

    All ranks take part in collecting a state, in the same order; rank 0 copies it to the host at once, and
    has it written in the background. At the end of an epoch the state is taken before anything is measured,
    so that nothing that fails there costs the epoch; what was measured is added to the checkpoint afterwards,
    and a run that is taken up from one without it measures first.

    Args:
        experiment: all of it, but not yet restored.

    Attributes:
        best: the best score so far and the checkpoint that has it, or None.
        unmeasured: the run was taken up from the end of an epoch that is still to be measured.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.e = experiment
        self.memory = HostMemory()
        self.best: dict[str, Any] | None = None
        self.unmeasured = False
        self._best_missing: set[str] | None = None
        self._saved: tuple[int, int] | None = None
        self._taken: tuple[int, int] | None = None
        self._snapshot: Snapshot | None = None

    def save(self) -> str:
        """Have the run written in the background as it is now, and return the name; all ranks meet.

        A moment is saved once.
        """
        if self._saved != self._now:
            if self._taken != self._now:
                self._take(measured=True)
            self._write()
        return self.e.moment

    def save_before_measuring(self, due: bool) -> None:
        """Take the run as it is at the end of an epoch, for which scores may follow; all ranks meet.

        Args:
            due: write it now; else it is kept on the host until `add_measured`, which may want it written,
                or until the run fails.
        """
        if self._saved == self._now:
            return
        if due or any(callback.measures() != () for callback in self.e.callbacks):
            self._take(measured=False)
        if due:
            self._write()

    def add_measured(self, scores: Mapping[str, float], wanted: bool = False) -> None:
        """Note what was measured at this moment, save it if it is the best one so far; all ranks meet.

        Args:
            scores: everything that was measured, the same on all ranks.
            wanted: save it also where it is not.
        """
        e = self.e
        self.unmeasured = False
        best = self._is_best(scores)
        if best or wanted:
            self.save()
        if self._saved == self._now and e.runtime.is_main:
            state = to_host({"callbacks": self._callbacks(), "best": self.best})
            facts = {**self.best, **vars(e.progress)} if best and self.best is not None else None
            e.writer.add_measured(e.moment, state, facts)
        self._taken = self._snapshot = None

    def write_unmeasured(self) -> None:
        """Write what was taken before a measurement that has failed; for this rank alone."""
        if self._snapshot is not None:
            self._write()

    @property
    def _now(self) -> tuple[int, int]:
        return self.e.progress.epoch, self.e.progress.iteration

    def _write(self) -> None:
        """Hand what was taken to the writer; only rank 0 has something."""
        self._saved = self._taken
        if self._snapshot is not None:
            self.e.writer.submit(self._snapshot)
        self._taken = self._snapshot = None

    def _take(self, measured: bool) -> None:
        """Collect the state of the run; rank 0 copies it to the host.

        Args:
            measured: nothing is to be measured at this moment any more.
        """
        e, is_main = self.e, self.e.runtime.is_main
        e.tracker.flush()
        if is_main:
            e.writer.wait()  # it may still be reading the memory that is used again
            self.memory.reuse()
        random = e.runtime.gather(random_state())
        averaged = e.update.averaged()
        tensors: dict[str, Any] = {}
        for name, component in e.components.items():
            if name not in averaged:
                with deployed_in_place(e.optimizers.get(name)) as differs:
                    if differs:
                        state = component.full_state()
                        if is_main:
                            tensors[f"{name}.pt"] = self.memory.copy(state)
        trained = {name: component.full_state() for name, component in e.components.items()}
        rest: dict[str, Any] = {f"{n}_opt.pt": full_optimizer_state(o) for n, o in e.optimizers.items()}
        rest |= {f"{n}.pt": averaged.get(n) or s for n, s in trained.items() if f"{n}.pt" not in tensors}
        if e.policy is not None and (own := own_state(e.policy, e.models)):
            rest[OWN_STATE] = own
        rest[TRAINING_STATE] = {
            "epoch": e.progress.epoch,
            "iteration": e.progress.iteration,
            "models": {n: s for n, s in trained.items() if n in e.optimizers},
            "update": e.update.state_dict(),
            "trainer": getattr(e.trainer, "state_dict", dict)(),
            "batches": e.batches.state_dict(),
            "callbacks": self._callbacks(),
            "rng": random,
            "best": self.best,
            "measured": measured,
        }
        self._taken = self._now
        if is_main:
            tensors |= self.memory.copy(rest)
            self._snapshot = Snapshot(
                name=e.moment,
                tensors=tensors,
                frozen=frozenset(f"{n}.pt" for n, c in e.components.items() if not c.trained),
                files=self.files(),
                facts=self.facts(),
                flushed=[e.run / f for f in RECORDS],
                prepare=self._check_of(tensors, averaged, e.progress.iteration),
            )

    def _check_of(
        self, tensors: Mapping[str, Any], averaged: Collection[str], iteration: int
    ) -> Callable[[], None]:
        """Return what waits for the copies and makes sure that they are finite, beside the training."""
        trained = tensors[TRAINING_STATE]["models"]
        deployed = {n: tensors[f"{n}.pt"] for n in self.e.components}
        averages = {n: deployed[n] for n in trained if n in averaged}
        buffers = {n: {b for b, _ in c.module.named_buffers()} for n, c in self.e.components.items()}

        def check() -> None:
            self.memory.wait()
            check_weights({**deployed, **trained}, averages, buffers, iteration)

        return check

    def _callbacks(self) -> list[list[Any]]:
        return [[type(c).__name__, c.state_dict()] for c in self.e.callbacks]

    def files(self) -> list[Path]:
        """Return the small files of the run folder that make a checkpoint self-contained."""
        run = self.e.run
        files = [run / CONFIG, run / DATASET, *sorted((run / MODELS).glob("*.yaml"))]
        return [*files, run / STATS] if self.e.stats else files

    def facts(self) -> dict[str, Any]:
        """Return what a manifest says of the run at this moment."""
        e = self.e
        return {
            **vars(e.progress),
            "global_batch": e.batches.samples_per_update,
            "steps_per_epoch": e.batches.steps_per_epoch,
            "total_steps": e.total_steps,
            "world_size": e.runtime.world_size,
            "project": str(e.project),
            "versions": library_versions(),
        }

    def weights_to_deploy(self) -> dict[str, dict[str, Any]]:
        """Return component → what to use on a robot: the average where there is one.

        All ranks meet. These may be the live tensors, so the next update changes them. Frozen components are
        left out: what is used on a robot is what they are.
        """
        averaged, states = self.e.update.averaged(), {}
        for name, component in self.e.components.items():
            if component.trained:
                with deployed_in_place(self.e.optimizers.get(name)) as differs:
                    state = averaged.get(name) or component.full_state()
                    states[name] = to_host(state) if differs else state
        return states

    def _is_best(self, scores: Mapping[str, float]) -> bool:
        """Say whether this moment has the best score so far, and remember it."""
        wanted = self.e.config.train.checkpoint.best
        if wanted is None:
            return False
        if wanted.metric not in scores:
            self._best_missing = (self._best_missing or set()) | set(scores)
            return False
        value = float(scores[wanted.metric])
        if not math.isfinite(value) or not _improves(value, self.best, wanted.mode):
            return False
        self.best = {"name": self.e.moment, "metric": wanted.metric, "mode": wanted.mode, "value": value}
        return True

    def say_what_had_no_effect(self) -> None:
        """Warn when `train.checkpoint.best` waited for a metric that nothing measured."""
        if self.best is None and self._best_missing is not None:
            wanted = self.e.config.train.checkpoint.best
            assert wanted is not None
            known = ", ".join(sorted(self._best_missing)) or "nothing"
            log.warning(
                f"train.checkpoint.best had no effect: '{wanted.metric}' was never measured; "
                f"what was: {known}."
            )

    def restore(self, folder: Path) -> None:
        """Take up the run where a checkpoint left it.

        Raises:
            CheckpointError: the checkpoint is incomplete or damaged.
        """
        e = self.e
        state = load_tensors(folder / TRAINING_STATE)
        for name, component in e.components.items():
            if name in state["models"]:
                component.load(state["models"][name])
            else:
                load_component(component.module, folder / f"{name}.pt")
        moved: dict[tuple[int, int], list[str]] = {}
        for name, optimizer in e.optimizers.items():
            saved = load_tensors(folder / f"{name}_opt.pt")
            before = (saved.get("scheduler") or {}).get("total_steps")
            load_optimizer_state(optimizer, saved)
            now = getattr(getattr(optimizer, "scheduler", None), "total_steps", None)
            if before is not None and now is not None and before != now:
                moved.setdefault((before, now), []).append(name)
        e.update.load_state_dict(state["update"])
        if (folder / OWN_STATE).exists() and e.policy is not None:
            load_own_state(e.policy, e.models, load_tensors(folder / OWN_STATE))
        e.batches.load_state_dict(state["batches"])
        if hasattr(e.trainer, "load_state_dict"):
            e.trainer.load_state_dict(state["trainer"])
        measured = folder / MEASURED
        self.unmeasured = not state.get("measured", True) and not measured.exists()
        known = {**state, **(load_tensors(measured) if measured.exists() else {})}
        self._restore_callbacks(known.get("callbacks", ()))
        e.progress.epoch, e.progress.iteration = state["epoch"], state["iteration"]
        for (before, now), names in moved.items() if not e.finished else ():
            log.warning(
                f"the learning rate of {', '.join(names)} now ends its schedule after {now:,} "
                f"updates instead of {before:,}, as the configuration says."
            )
        if len(state["rng"]) == e.runtime.world_size:
            restore_random_state(state["rng"][e.runtime.rank])
        else:
            # No rank has a past to go on from; at least none draws again what was drawn before.
            words = np.random.SeedSequence([e.config.run_seed, e.runtime.rank, e.progress.iteration])
            set_global_seed(int(words.generate_state(1)[0]))
        if e.runtime.is_main:
            self._restore_best(known.get("best"), folder)
        self.best = e.runtime.from_main(self.best)
        self._saved = self._now if e.runtime.from_main(is_in(folder, e.run)) else None

    def _restore_callbacks(self, saved: Sequence[tuple[str, dict[str, Any]]]) -> None:
        """Give every callback its own state; there may be more of them now, or fewer, or in another order."""
        left = list(saved)
        for callback in self.e.callbacks:
            place = next((i for i, (kind, _) in enumerate(left) if kind == type(callback).__name__), None)
            if place is not None:
                callback.load_state_dict(left.pop(place)[1])

    def _restore_best(self, saved: dict[str, Any] | None, folder: Path) -> None:
        """Take up the best score so far: it may have been measured after the checkpoint was written.

        Only what this run still has counts, so that `best` can name it: a checkpoint of another run may know
        of a better one that is not here.
        """
        run, wanted = self.e.run, self.e.config.train.checkpoint.best
        if self.e.config.train.checkpoint.resume_from != "auto":
            aside = set_aside_later(run, folder)
            if aside is not None:
                log.info(f"What {run} had saved beyond {folder.name} is now in {aside}.")
        if wanted is None or not is_in(folder, run):
            return
        pointer = read_pointer(run, BEST)
        for one in (saved or {}, pointer[1] if pointer else {}):
            fits = (one.get("metric"), one.get("mode")) == (wanted.metric, wanted.mode)
            whole = isinstance(one.get("value"), float) and parse_checkpoint_name(str(one.get("name")))
            if fits and whole and one.get("iteration", 0) <= self.e.progress.iteration:
                there = one["name"] == self.e.moment or (run / one["name"] / MANIFEST).is_file()
                if there and _improves(one["value"], self.best, wanted.mode):
                    self.best = {key: one[key] for key in ("name", "metric", "mode", "value")}
        self._point_at_best_again(pointer[0] if pointer else None, folder)

    def _point_at_best_again(self, named: str | None, folder: Path) -> None:
        """Let `best` name the best moment, if the process that saved it was killed before it could."""
        if self.best is not None and self.best["name"] != named:
            own = folder if self.best["name"] == self.e.moment else self.e.run / self.best["name"]
            manifest = load_manifest(own)
            facts = {**self.best, **{key: manifest[key] for key in vars(self.e.progress)}}
            self.e.writer.point_at_best(self.best["name"], facts)


def _improves(value: float, best: Mapping[str, Any] | None, mode: str) -> bool:
    if best is None:
        return True
    return value < best["value"] if mode == "min" else value > best["value"]


@contextlib.contextmanager
def deployed_in_place(optimizer: torch.optim.Optimizer | None) -> Iterator[bool]:
    """Let the parameters of a schedule-free optimizer be those to deploy, and then exactly what they were.

    Its own `train()` after `eval()` gives other roundings, so the weights are put back bit for bit.

    Yields:
        Whether the parameters differ from those in training.
    """
    if optimizer is None or not _switches(optimizer):
        yield False
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    exact = [p.detach().clone() for p in parameters]
    optimizer.eval()  # type: ignore[attr-defined]
    try:
        yield True
    finally:
        optimizer.train()  # type: ignore[attr-defined]
        with torch.no_grad():
            for parameter, value in zip(parameters, exact, strict=True):
                parameter.copy_(value)


def _switches(optimizer: torch.optim.Optimizer) -> bool:
    """Say whether an optimizer has modes and is in that of training."""
    if not callable(getattr(optimizer, "eval", None)) or not callable(getattr(optimizer, "train", None)):
        return False
    own = getattr(optimizer, "train_mode", True)
    return bool(optimizer.param_groups[0].get("train_mode", own))
