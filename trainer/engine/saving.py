"""What a checkpoint holds of an experiment, how it is copied beside the training, and which one is best."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from torch import Tensor

from trainer.checkpoint.folder import (
    BEST,
    MANIFEST,
    TRAINING_STATE,
    Snapshot,
    load_tensors,
    read_pointer,
    to_host,
)
from trainer.checkpoint.staging import deployed_in_place
from trainer.deployment.robot_policy import (
    CONFIG,
    DATASET,
    MODELS,
    OWN_STATE,
    STATS,
    load_component,
    load_own_state,
    own_state,
)
from trainer.engine.finite import check_weights
from trainer.engine.resume import is_in, set_aside_later
from trainer.engine.tracking import EVALUATIONS, METRICS, VALIDATIONS
from trainer.modeling.component import full_optimizer_state, load_optimizer_state
from trainer.utils.seed import random_state, restore_random_state, set_global_seed
from trainer.utils.versions import library_versions

if TYPE_CHECKING:
    from trainer.engine.experiment import Experiment

# What the run knows up to the moment of a checkpoint is on disk before the checkpoint counts.
RECORDS = (METRICS, VALIDATIONS, EVALUATIONS)


class Saving:
    """Saves an experiment and takes it up again.

    Args:
        experiment: all of it, but not yet restored.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.e = experiment
        self.best: dict[str, Any] | None = None
        self._best_missing: set[str] | None = None
        self._saved: tuple[int, int] | None = None

    def save(self) -> str:
        """Take a snapshot that is written in the background, and return its name; all ranks meet.

        A moment is saved once.
        """
        e = self.e
        if self._saved == (e.progress.epoch, e.progress.iteration):
            return e.moment
        e.tracker.flush()
        averaged = e.update.averaged()
        check_weights(e.components, averaged, e.progress.iteration)
        deployed = self.weights_to_deploy()
        optimizers = {f"{n}_opt.pt": full_optimizer_state(o) for n, o in e.optimizers.items()}
        training = {
            "epoch": e.progress.epoch,
            "iteration": e.progress.iteration,
            "models": {n: c.full_state() for n, c in e.components.items() if n in e.optimizers},
            "update": e.update.state_dict(),
            "policy": self._own_state(),
            "trainer": getattr(e.trainer, "state_dict", dict)(),
            "callbacks": [[type(c).__name__, c.state_dict()] for c in e.callbacks],
            "rng": e.runtime.gather(random_state()),
            "best": self.best,
        }
        name, self._saved = e.moment, (e.progress.epoch, e.progress.iteration)
        if not e.runtime.is_main:
            return name
        e.writer.wait()
        tensors = {f"{n}.pt": state for n, state in deployed.items()}
        tensors |= {name: to_host(state) for name, state in optimizers.items()}
        tensors[TRAINING_STATE] = to_host(training)
        if training["policy"]:
            tensors[OWN_STATE] = to_host(training["policy"])
        e.writer.submit(
            Snapshot(name, tensors, self._files(), self._facts(), None, [e.run / f for f in RECORDS])
        )
        return name

    def _own_state(self) -> dict[str, Tensor]:
        return own_state(self.e.policy, self.e.models) if self.e.policy is not None else {}

    def _files(self) -> list[Path]:
        run = self.e.run
        files = [run / CONFIG, run / DATASET, *sorted((run / MODELS).glob("*.yaml"))]
        return [*files, run / STATS] if self.e.stats else files

    def _facts(self) -> dict[str, Any]:
        e = self.e
        return {
            **vars(e.progress),
            "global_batch": e.samples_per_update,
            "steps_per_epoch": e.loader.steps_per_epoch,
            "total_steps": e.total_steps,
            "world_size": e.runtime.world_size,
            "project": str(e.project),
            "versions": library_versions(),
        }

    def weights_to_deploy(self) -> dict[str, dict[str, Any]]:
        """Return component → a copy on the host of what to use on a robot: the average where there is one.

        All ranks meet.
        """
        averaged, states = self.e.update.averaged(), {}
        for name, component in self.e.components.items():
            with deployed_in_place(self.e.optimizers.get(name)):
                states[name] = to_host(averaged.get(name) or component.full_state())
        return states

    def consider_best(self, scores: Mapping[str, float]) -> None:
        """Let `best` name this moment where its score is the best so far; all ranks meet.

        Args:
            scores: everything that was measured at this moment, the same on all ranks.
        """
        wanted = self.e.config.train.checkpoint.best
        if wanted is None:
            return
        if wanted.metric not in scores:
            self._best_missing = (self._best_missing or set()) | set(scores)
            return
        value = float(scores[wanted.metric])
        if not math.isfinite(value) or not _improves(value, self.best, wanted.mode):
            return
        self.best = {"name": self.e.moment, "metric": wanted.metric, "mode": wanted.mode, "value": value}
        self.save()
        if self.e.runtime.is_main:
            facts = {**self.best, **vars(self.e.progress)}
            self.e.writer.point_at_best(self.e.moment, facts)

    def say_what_had_no_effect(self) -> None:
        """Warn when `train.checkpoint.best` waited for a metric that nothing measured."""
        if self.best is None and self._best_missing is not None and self.e.runtime.is_main:
            wanted = self.e.config.train.checkpoint.best
            assert wanted is not None
            known = ", ".join(sorted(self._best_missing)) or "nothing"
            click.echo(
                f"Warning: train.checkpoint.best had no effect: '{wanted.metric}' was never measured; "
                f"what was: {known}.",
                err=True,
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
        for (before, now), names in moved.items() if e.runtime.is_main else ():
            click.echo(
                f"Warning: the learning rate of {', '.join(names)} now ends its schedule after {now:,} "
                f"updates instead of {before:,}, as the configuration says.",
                err=True,
            )
        e.update.load_state_dict(state["update"])
        if e.policy is not None:
            load_own_state(e.policy, e.models, state["policy"])
        if hasattr(e.trainer, "load_state_dict"):
            e.trainer.load_state_dict(state["trainer"])
        self._restore_callbacks(state.get("callbacks", ()))
        e.progress.epoch, e.progress.iteration = state["epoch"], state["iteration"]
        if len(state["rng"]) == e.runtime.world_size:
            restore_random_state(state["rng"][e.runtime.rank])
        else:
            # No rank has a past to go on from; at least none draws again what was drawn before.
            words = np.random.SeedSequence([e.config.run_seed, e.runtime.rank, e.progress.iteration])
            set_global_seed(int(words.generate_state(1)[0]))
        if e.runtime.is_main:
            self._restore_best(state.get("best"), folder)
        self.best = e.runtime.from_main(self.best)

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
                click.echo(f"What {run} had saved beyond {folder.name} is now in {aside}.", err=True)
        if wanted is None or not is_in(folder, run):
            return
        pointer = read_pointer(run, BEST)
        for one in (saved, pointer[1] if pointer else None):
            fits = one and (one["metric"], one["mode"]) == (wanted.metric, wanted.mode)
            if fits and one.get("iteration", 0) <= self.e.progress.iteration:  # type: ignore[union-attr]
                assert one is not None
                there = one["name"] == self.e.moment or (run / one["name"] / MANIFEST).is_file()
                if there and _improves(one["value"], self.best, wanted.mode):
                    self.best = {key: one[key] for key in ("name", "metric", "mode", "value")}
        self._point_at_best_again(pointer[0] if pointer else None, folder)

    def _point_at_best_again(self, named: str | None, folder: Path) -> None:
        """Let `best` name the best moment, if the process that saved it was killed before it could."""
        if self.best is not None and self.best["name"] != named:
            own = folder if self.best["name"] == self.e.moment else self.e.run / self.best["name"]
            manifest = json.loads((own / MANIFEST).read_text(encoding="utf-8"))
            facts = {**self.best, **{key: manifest[key] for key in vars(self.e.progress)}}
            self.e.writer.point_at_best(self.best["name"], facts)


def _improves(value: float, best: Mapping[str, Any] | None, mode: str) -> bool:
    if best is None:
        return True
    return value < best["value"] if mode == "min" else value > best["value"]
