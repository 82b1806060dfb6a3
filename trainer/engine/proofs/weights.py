"""Claims about weights: what is trained moves, what is frozen does not, and the average is one."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from trainer.engine.places import place_of_tensor
from trainer.engine.proofs.claim import Claim, Fault, not_applicable
from trainer.engine.proofs.trial import State, Trial, states

ABOUT = "weights"


def weight_claims(trial: Trial) -> Iterator[Claim]:
    """Yield the claims about the weights of a trial."""
    after = states(trial.experiment)
    yield _gradients(trial, after)
    yield _optimized(trial)
    yield _moves(trial, after)
    yield _frozen(trial, after)
    yield _average(trial)
    yield _callbacks(trial)


def _fault(trial: Trial, name: str, key: str, message: str, hint: str | None = None) -> Fault:
    path = ("model", "component_config_paths", name)
    return Fault(path, message, hint, place_of_tensor(trial.checked.component_paths[name], key))


def _gradients(trial: Trial, after: dict[str, State]) -> Claim:
    found = trial.witness.gradients
    # `find_unused_parameters` says that a step may leave some out.
    may_lack = trial.config.model.find_unused_parameters
    faults = []
    for name in trial.experiment.optimizers:
        own = {key: largest for (owner, key), largest in found.items() if owner == name}
        none = [key for key, largest in own.items() if largest is None]
        # A trainer of the user's own may compute gradients past `backward`; what moves has had one.
        without = [k for k in none if not may_lack and torch.equal(after[name][k], trial.before[name][k])]
        zero = [key for key, largest in own.items() if largest == 0]
        if without:
            message = f"{_listed(without)} of component '{name}' gets no gradient: the loss does not use it"
            faults.append(
                _fault(trial, name, without[0], message, "leave it out, or make it part of the loss")
            )
        if zero:
            updates = trial.experiment.progress.iteration
            message = f"{_listed(zero)} of component '{name}' gets gradients of 0 only, in {updates} updates"
            faults.append(_fault(trial, name, zero[0], message, "does something multiply it by 0?"))
    reached = sum(1 for largest in found.values() if largest)
    updates = trial.experiment.progress.iteration
    measured = f"{reached} of {len(found)} tensors, within {updates} updates"
    return Claim(ABOUT, "every trainable parameter gets a gradient", measured, faults=faults)


def _optimized(trial: Trial) -> Claim:
    faults, total = [], 0
    for name, optimizer in trial.experiment.optimizers.items():
        held = [id(p) for group in optimizer.param_groups for p in group["params"]]
        own = dict(trial.experiment.components[name].module.named_parameters())
        trained = {key: p for key, p in own.items() if p.requires_grad}
        total += len(trained)
        path, spec = trial.config.optimizers[name]
        missing = [key for key, p in trained.items() if id(p) not in held]
        if missing:
            message = f"the optimizer '{spec.type}' of component '{name}' leaves out {_listed(missing)}"
            faults.append(Fault(path, message, "its build must take all parameters that it is given"))
        foreign = len(set(held) - {id(p) for p in own.values()})
        if foreign:
            message = f"the optimizer '{spec.type}' of component '{name}' has {foreign} parameters of others"
            faults.append(Fault(path, message))
    measured = f"{total} tensors in {len(trial.experiment.optimizers)} optimizers"
    return Claim(ABOUT, "every trainable parameter has its optimizer", measured, faults=faults)


def _moves(trial: Trial, after: dict[str, State]) -> Claim:
    faults: list[Fault] = []
    moved, least = 0, []
    for (name, key), largest in trial.witness.gradients.items():
        change = (after[name][key].double() - trial.before[name][key].double()).abs()
        biggest = float(change.max()) if change.numel() else 0.0
        moved += biggest > 0
        least.append(biggest)
        if largest and biggest == 0 and _could_move(trial, name, after[name][key]):
            path, spec = trial.config.optimizers[name]
            message = f"{key} of component '{name}' gets gradients up to {largest:.2g} and does not move"
            hint = f"does the optimizer '{spec.type}' have it, and is its learning rate above 0?"
            if not any(fault.path == path for fault in faults):
                faults.append(Fault(path, message, hint))
    measured = f"{moved} of {len(least)} tensors, by up to {max(least, default=0.0):.2g}"
    return Claim(ABOUT, "every trainable parameter moves", measured, faults=faults)


def _could_move(trial: Trial, name: str, value: Tensor) -> bool:
    """Say whether the learning rates so far are large enough to change a number of this size in float32."""
    return trial.witness.rates.get(name, 0.0) > 1e-6 * float(value.abs().max())


def _frozen(trial: Trial, after: dict[str, State]) -> Claim:
    text = "no frozen parameter or buffer moves"
    faults, count = [], 0
    for name, component in trial.experiment.components.items():
        trained = {key for owner, key in trial.witness.gradients if owner == name}
        buffers = {key for key, _ in component.module.named_buffers()} if component.trained else set()
        still = [key for key in after[name] if key not in trained | buffers]
        count += len(still)
        for key in still:
            if not torch.equal(after[name][key], trial.before[name][key]):
                change = float((after[name][key].double() - trial.before[name][key].double()).abs().max())
                message = f"{key} of the frozen component '{name}' moves by {change:.2g}"
                hint = "who puts it into train mode, or writes to it?"
                faults.append(_fault(trial, name, key, message, hint))
                break
    if not count:
        return not_applicable(ABOUT, text, "nothing is frozen")
    return Claim(ABOUT, text, f"{count} tensors, {len(faults)} of the components move", faults=faults)


def _average(trial: Trial) -> Claim:
    text = "the average differs from the weights, and is what is deployed"
    update = trial.experiment.update
    path = ("train", "ema", "decay")
    if not update.averages:
        return not_applicable(ABOUT, text, "train.ema is off")
    faults, farthest = [], 0.0
    deployed = trial.experiment.saving.weights_to_deploy()
    for name, average in update.averages.items():
        live, averaged = trial.experiment.components[name].local_state(), average.full()
        floats = [key for key, value in live.items() if value.is_floating_point() and value.numel()]
        apart = max((float((live[k] - averaged[k]).abs().max()) for k in floats), default=0.0)
        came = max((float((trial.before[name][k] - averaged[k]).abs().max()) for k in floats), default=0.0)
        farthest = max(farthest, apart)
        moved = any(not torch.equal(live[k], trial.before[name][k]) for k in floats)
        if (apart == 0 and moved) or trial.config.train.ema.decay < 1e-3:
            message = f"a decay of {trial.config.train.ema.decay:g} makes the average the weights themselves"
            faults.append(Fault(path, message, "0.99 to 0.9999 are usual"))
            break
        if came == 0 and moved:
            faults.append(Fault(path, f"the average of component '{name}' stays at the first weights"))
        if any(not torch.equal(deployed[name][key], averaged[key].cpu()) for key in floats):
            message = f"what is deployed of component '{name}' is not its average"
            faults.append(Fault(("model", "component_config_paths", name), message))
    return Claim(ABOUT, text, f"up to {farthest:.2g} apart", faults=faults)


def _callbacks(trial: Trial) -> Claim:
    text = "no callback changes weights or the random numbers of the training"
    if not trial.checked.callbacks:
        return not_applicable(ABOUT, text, "there are no callbacks")
    faults = [
        Fault(path, f"callback '{trial.config.train.callbacks[int(path[2])].type}' {what}")
        for path, what in trial.witness.meddled.items()
    ]
    calls = f"{len(trial.checked.callbacks)} callbacks, {len(faults)} of them do"
    return Claim(ABOUT, text, calls, faults=faults)


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
