"""Claims about saving: a run that is taken up again is the same run, to the bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from trainer.engine.experiment import Experiment
from trainer.engine.proofs.claim import Claim, Fault
from trainer.engine.proofs.trial import Trial, next_update, states
from trainer.modeling.component import full_optimizer_state
from trainer.utils.seed import restore_random_state

ABOUT = "resuming"


def resume_claims(trial: Trial) -> Iterator[Claim]:
    """Yield the claims about a checkpoint; the trial is an update further afterwards."""
    with trial.again() as taken_up:
        yield _same(trial, taken_up)
        there = _next(taken_up)
    restore_random_state(trial.random)
    yield _goes_on(trial, _next(trial.experiment), there)


def _same(trial: Trial, taken_up: Experiment) -> Claim:
    text = "what is saved and loaded is the run, bit by bit"
    ours, theirs = everything(trial.experiment), everything(taken_up)
    faults = [
        _fault(trial, *one, "is not saved: it is {} after loading") for one in _differences(ours, theirs)
    ]
    size = sum(file.stat().st_size for file in trial.checkpoint.iterdir())
    measured = f"{len(ours):,} values, {size / 1e6:,.1f} MB on disk, {len(faults)} differ"
    return Claim(ABOUT, text, measured, faults=faults[:1])


def _goes_on(trial: Trial, here: Mapping[str, Any], there: Mapping[str, Any]) -> Claim:
    text = "the next update of the run and of the one that was taken up are the same"
    faults = [
        _fault(trial, *one, "differs after the next update of a run that is taken up: it is {}")
        for one in _differences(here, there)
    ]
    return Claim(ABOUT, text, f"{len(here):,} values, {len(faults)} differ", faults=faults[:1])


def _next(experiment: Experiment) -> dict[str, Any]:
    """Make one more update and return everything."""
    metrics = next_update(experiment)
    return {**everything(experiment), **{f"metric {name}": value for name, value in metrics.items()}}


def everything(experiment: Experiment) -> dict[str, Any]:
    """Return all values of a run by name, no copies: weights, optimizers, averages, policy, trainer."""
    found: dict[str, Any] = {"epoch": experiment.progress.epoch, "iteration": experiment.progress.iteration}
    for name, state in states(experiment).items():
        found.update({f"{name} {key}".strip(): value for key, value in state.items()})
    for name, optimizer in experiment.optimizers.items():
        _flatten(full_optimizer_state(optimizer), f"optimizer of {name}", found)
    _flatten(experiment.update.state_dict(), "update", found)
    _flatten(getattr(experiment.trainer, "state_dict", dict)(), "trainer", found)
    return found


def _flatten(value: Any, name: str, into: dict[str, Any]) -> None:
    if isinstance(value, Mapping):
        for key, child in value.items():
            _flatten(child, f"{name}.{key}", into)
    elif isinstance(value, (list, tuple)):
        for index, child in enumerate(value):
            _flatten(child, f"{name}.{index}", into)
    else:
        into[name] = value


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the names of what differs, each with by how much."""
    for name in {**ours, **theirs}:
        if name not in ours or name not in theirs:
            yield name, "missing"
            continue
        one, other = ours[name], theirs[name]
        if isinstance(one, Tensor) and isinstance(other, Tensor):
            one, other = one.detach().cpu(), other.detach().cpu()
            if one.shape != other.shape:
                yield name, "of another shape"
            elif not (torch.equal(one, other) or torch.equal(one.nan_to_num(), other.nan_to_num())):
                yield name, f"off by up to {float((one.double() - other.double()).abs().max()):.2g}"
        elif type(one) in (int, float, bool, str) and one != other:
            yield name, f"{other} instead of {one}"


def _fault(trial: Trial, name: str, how: str, message: str) -> Fault:
    """Return a fault at the place that the name of a value belongs to."""
    owner = name.removeprefix("optimizer of ").split(" ")[0].split(".")[0]
    path: tuple[str, ...] = ("train", "trainer")
    if owner in trial.experiment.components:
        is_optimizer = name.startswith("optimizer of ") and owner in trial.config.optimizers
        path = (
            trial.config.optimizers[owner][0] if is_optimizer else ("model", "component_config_paths", owner)
        )
    return Fault(path, f"'{name}' {message.format(how)}")
