"""Claims about deployment: a robot sees and does with a sample what training sees and learns of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from model_constructor import random_source, resolve_config
from torch import Tensor, nn

from trainer.checkpoint.folder import CheckpointError
from trainer.data.columns import ACTION
from trainer.data.normalization import CURRENT, DATASET_INDEX, STATE
from trainer.deployment.robot_policy import DeployedPolicy, load_policy
from trainer.engine.proofs.claim import Claim, Fault, not_applicable
from trainer.engine.proofs.loss import losses_of
from trainer.engine.proofs.trial import Trial
from trainer.modeling.component import unwrap
from trainer.modeling.observations import input_name
from trainer.templates import Context, Policy
from trainer.utils.random import RowRandom
from trainer.utils.seed import kept_random_state

ABOUT = "deployment"
PATH = ("train", "trainer")
_CLOSE = 1e-4
"""Float32 on two ways, relative to numbers of about 1."""

TEXTS = (
    "a robot sees the normalized observation of training",
    "a robot gets the action of training, in the units of the dataset",
    "an action comes back from its normalization",
    "the same observation and seed give the same action",
    "observations are normalized once",
    "the loss is least where the policy predicts",
)


def deployment_claims(trial: Trial) -> Iterator[Claim]:
    """Yield the claims about the deployed policy, which is loaded from the checkpoint of the trial."""
    policy = trial.experiment.policy
    why = _why_not(trial)
    if why is not None or not isinstance(policy, Policy):
        for text in TEXTS:
            yield not_applicable(ABOUT, text, why or "")
        return
    row = _row(trial)
    try:
        robot = _robot(trial)
        seen, action = _acted(trial, robot, row)
    except (CheckpointError, ValueError, RuntimeError, TypeError, KeyError, IndexError) as error:
        yield Claim(ABOUT, TEXTS[0], "it cannot act", faults=[Fault(PATH, f"the deployed policy fails: {error}")])
        return
    yield _observes(trial, row, seen)
    yield _acts(trial, robot, row, action)
    yield _units(trial, robot, row)
    yield _repeats(trial, policy, row)
    yield _normalized_once(trial, policy)
    yield _least(trial, policy)


def _why_not(trial: Trial) -> str | None:
    if not isinstance(trial.experiment.policy, Policy):
        return "the trainer trains no policy that acts"
    if ACTION not in trial.experiment.facts.get("windows", {}):
        return "the dataset tells no windows"
    if trial.experiment.facts.get("datasets"):
        return "the samples of a mixture are those of several robots"
    return None


def _row(trial: Trial) -> np.ndarray:
    """Return a sample in the middle of the data."""
    return np.array([len(trial.data.dataset) // 2])


def _robot(trial: Trial) -> DeployedPolicy:
    trust = {name.partition(".")[0] for name in trial.config.plugins}
    for model in trial.checked.component_paths.values():
        trust |= {prefix.rstrip(".") for prefix in resolve_config(model).settings.allowed_import_prefixes}
    return load_policy(trial.checkpoint, "cpu", n_action_steps=1, trust=sorted(trust))


class _Listening(nn.Module):
    """A policy that keeps what it was last asked, and draws the same numbers at every step of a robot."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy
        self.seen: dict[str, Tensor] = {}

    def predict_action(self, observation: dict[str, Tensor], context: Context) -> Tensor:
        """Note the observation and ask the policy."""
        self.seen = {k: v.clone() for k, v in observation.items() if isinstance(v, Tensor)}
        return _asked(self.policy, observation, 1)


def _asked(policy: Policy, observation: Mapping[str, Any], rows: int, first: int = 0) -> Tensor:
    """Return the chunk that a policy predicts with the seeds `first` …, and without others' random numbers."""
    random = RowRandom(range(first, first + rows))
    with torch.no_grad(), random_source(random), kept_random_state():
        torch.manual_seed(0)
        return policy.predict_action(dict(observation), Context(random))


def _acted(
    trial: Trial, robot: DeployedPolicy, row: np.ndarray
) -> tuple[dict[str, Tensor], np.ndarray]:
    """Let the robot live through the history of a sample; return what its policy was last asked, and did."""
    raw = dict(trial.data.dataset.__getitems__(row))
    listening = _Listening(robot.policy)
    robot.policy = listening
    robot.reset(0)
    # A chunk is asked for at every step, or with a stride at every few; the sample's own must be one of them.
    before = -(-(robot.memory - 1) // robot.stride) * robot.stride
    action = np.zeros(0)
    for offset in range(-before, 1):
        action = robot.act({key: _at(robot, key, raw[key], offset) for key in robot.observation_windows})
    return listening.seen, action


def _at(robot: DeployedPolicy, key: str, values: Tensor, offset: int) -> np.ndarray:
    """Return what was measured at a time: the nearest frame of the window `(1, T, …)` of a sample."""
    offsets = robot.observation_windows[key]
    frames = values[0]
    column = robot.observations.get(key)
    has_time = frames.ndim in (2, 4) if column is None else frames.ndim > len(column.shape)
    if has_time:  # a single picture comes without
        frames = frames[min(range(len(offsets)), key=lambda place: abs(offsets[place] - offset))]
    return frames.numpy()


def _observes(trial: Trial, row: np.ndarray, seen: Mapping[str, Tensor]) -> Claim:
    batch = trial.loader.sample(row)
    worst, faults = 0.0, []
    compared = [key for key, value in seen.items() if isinstance(batch.get(key), Tensor)]
    for key in compared:
        ours, theirs = batch[key], seen[key]
        if ours.shape != theirs.shape:
            message = f"a robot sees '{key}' as {tuple(theirs.shape)}, training as {tuple(ours.shape)}"
            faults.append(Fault(("data", "datamodule"), message))
            continue
        apart = float((ours.double() - theirs.double()).abs().max()) if ours.numel() else 0.0
        worst = max(worst, apart)
        if not apart <= _CLOSE * max(1.0, float(ours.double().abs().max())):
            message = f"a robot sees '{key}' other than training does, by up to {apart:.3g} in normalized units"
            hint = "does the dataset change it beyond what its columns and windows say?"
            faults.append(Fault(("data", "datamodule"), message, hint))
    measured = f"{worst:.2g} apart at most, in {', '.join(compared)}"
    return Claim(ABOUT, TEXTS[0], measured, faults=faults[:1])


def _acts(trial: Trial, robot: DeployedPolicy, row: np.ndarray, action: np.ndarray) -> Claim:
    """Compare with the weights that the running training would deploy, on its own batch."""
    policy = trial.experiment.deployed_objective()
    assert isinstance(policy, Policy)
    batch = trial.loader.sample(row)
    chunk = _asked(policy, batch, 1)
    normalizer = trial.experiment.normalizer.for_dataset()
    wanted = normalizer.denormalize(ACTION, chunk.float()).numpy()[0, robot.first_action]
    scale = max(1.0, float(np.abs(wanted).max()))
    apart = float(np.abs(wanted - action).max()) if wanted.shape == action.shape else float("inf")
    faults = []
    if not apart <= 10 * _CLOSE * scale:
        message = (
            f"for the same sample a robot does {_numbers(action)}, and training says {_numbers(wanted)}, "
            "in the units of the dataset"
        )
        hint = "does predict_action depend on anything but the observation, the context and what is saved?"
        faults.append(Fault(PATH, message, hint))
    return Claim(ABOUT, TEXTS[1], f"{_numbers(action)}, {apart:.2g} apart", faults=faults)


def _numbers(values: np.ndarray) -> str:
    some = ", ".join(f"{value:.3g}" for value in values.ravel()[:4])
    return f"({some}{', …' if values.size > 4 else ''})"


def _units(trial: Trial, robot: DeployedPolicy, row: np.ndarray) -> Claim:
    raw = dict(trial.data.dataset.__getitems__(row))[ACTION][0].double()
    batch = trial.loader.sample(row)
    back = trial.experiment.normalizer.for_dataset().denormalize(ACTION, batch[ACTION])[0].double()
    width = min(back.shape[-1], raw.shape[-1])
    apart = float((back[..., :width] - raw[..., :width]).abs().max())
    faults = []
    if not apart <= 1e-3 * max(1.0, float(raw.abs().max())):
        message = f"an action that is normalized and brought back is {apart:.3g} off, in the units of the dataset"
        faults.append(Fault(("data", "normalization"), message, "do the statistics of 'action' hold its constants?"))
    return Claim(ABOUT, TEXTS[2], f"{apart:.2g} off at most", faults=faults)


def _repeats(trial: Trial, policy: Policy, row: np.ndarray) -> Claim:
    """Ask twice; what a policy draws elsewhere than in its context differs."""
    batch = trial.loader.sample(row)
    chunks = []
    with _evaluating(trial):
        for seed in (0, 1):
            random = RowRandom([0])
            with torch.no_grad(), random_source(random), kept_random_state():
                torch.manual_seed(seed)
                chunks.append(policy.predict_action(dict(batch), Context(random)))
    apart = float((chunks[0] - chunks[1]).abs().max())
    faults = []
    if apart > 0:
        message = f"{type(policy).__name__} predicts actions {apart:.2g} apart for the same observation and seed"
        faults.append(Fault(PATH, message, "draw from context.random, and keep nothing between calls"))
    return Claim(ABOUT, TEXTS[3], f"{apart:.2g} apart", faults=faults)


@contextlib.contextmanager
def _evaluating(trial: Trial) -> Iterator[None]:
    """Put the components into eval mode while the block runs."""
    modules = list(trial.experiment.models.modules())
    modes = [module.training for module in modules]
    trial.experiment.models.eval()
    try:
        yield
    finally:
        for module, training in zip(modules, modes, strict=True):
            module.training = training


def _normalized_once(trial: Trial, policy: Policy) -> Claim:
    """Look at what the components are given of the observations, in the loss and in the prediction."""
    text = TEXTS[4]
    batch = trial.experiment.batches.example(trial.samples)
    normalizer = trial.experiment.normalizer
    features = [
        k
        for k in normalizer.modes
        if k in batch and k != ACTION and not (k == STATE and CURRENT in batch) and batch[k].is_floating_point()
    ]
    if not features:
        return not_applicable(ABOUT, text, "no observation is normalized")
    given: dict[tuple[str, str], list[Tensor]] = {}
    with _given_to(trial, given), _evaluating(trial):
        random = RowRandom(range(trial.samples))
        with torch.no_grad(), random_source(random), kept_random_state():
            policy.loss(dict(batch), Context(random, training=True, step=1, total_steps=2))
        _asked(policy, batch, trial.samples)
    faults, count = [], 0
    for (name, argument), values in given.items():
        key = next((k for k in features if input_name(k) == argument), None)
        for value in values if key else ():
            if key is None or value.shape != batch[key].shape:
                continue
            count += 1
            if _close(value, batch[key]):
                continue
            again = normalizer.normalize({k: batch[k] for k in (key, DATASET_INDEX) if k in batch})[key]
            raw = _denormalized(normalizer, key, batch[key])
            what = "normalized twice" if _close(value, again) else "in its own units" if _close(value, raw) else None
            if what is not None:
                message = f"{type(policy).__name__} gives '{key}' to component '{name}' {what}"
                hint = "a batch is normalized already, in training and on a robot; the policy must not do it"
                faults.append(Fault(PATH, message, hint))
    if not count:
        return not_applicable(ABOUT, text, "no component has an input that is called like an observation")
    return Claim(ABOUT, text, f"{count} inputs of components, {len(faults)} are not", faults=faults[:1])


def _denormalized(normalizer: Any, key: str, value: Tensor) -> Tensor:
    try:
        back: Tensor = normalizer.denormalize(key, value)
    except ValueError:  # of a mixture: in the units of which dataset?
        return value
    return back


def _close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one.float(), other.float(), rtol=1e-4, atol=1e-4)


@contextlib.contextmanager
def _given_to(trial: Trial, given: dict[tuple[str, str], list[Tensor]]) -> Iterator[None]:
    """Note the tensors that every component is given, by its name and that of the input."""
    handles = []
    for name, component in trial.experiment.models.items():
        inputs = list(getattr(unwrap(component), "inputs", ()))

        def note(
            module: nn.Module, args: Any, kwargs: Any, name: str = name, inputs: list[str] = inputs
        ) -> None:
            for argument, value in {**dict(zip(inputs, args, strict=False)), **kwargs}.items():
                if isinstance(value, Tensor):
                    given.setdefault((name, argument), []).append(value.detach().clone())

        handles.append(component.register_forward_pre_hook(note, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _least(trial: Trial, policy: Policy) -> Claim:
    """A policy that predicts without drawing, and whose networks see no action, is at its own minimum."""
    text = TEXTS[5]
    batch = trial.experiment.batches.example(trial.samples)
    with _evaluating(trial):
        chunks = [_asked(policy, batch, trial.samples, first) for first in (0, 1000)]
    if not torch.equal(*chunks):
        return not_applicable(ABOUT, text, "the policy draws its action")
    if chunks[0].shape != batch[ACTION].shape:
        return not_applicable(ABOUT, text, "the policy predicts another chunk than the data has")
    action = chunks[0].float().detach().clone().requires_grad_(True)
    total = _total(trial, policy, {**batch, ACTION: action})
    if _sees(trial, policy, batch) or not total.requires_grad:
        return not_applicable(ABOUT, text, "the policy gives actions to its networks")
    (slope,) = torch.autograd.grad(total, [action], allow_unused=True)
    if slope is None:
        return not_applicable(ABOUT, text, "the loss does not depend on the action")
    least = float(total.detach())
    signs = torch.randn(action.shape, generator=torch.Generator().manual_seed(0)).sign()
    rise = float(_total(trial, policy, {**batch, ACTION: action.detach() + signs})) - least
    lower = least
    direction = -slope / slope.abs().max().clamp_min(1e-30)
    for step in (0.03, 0.1, 0.3, 1.0, 3.0):
        moved = action.detach() + step * direction
        lower = min(lower, float(_total(trial, policy, {**batch, ACTION: moved})))
    share = (least - lower) / max(abs(rise), 1e-12)
    faults = []
    if share > 0.02 and slope.abs().max() > 0:
        message = (
            f"the loss of {type(policy).__name__} at its own prediction is {least:.3g} and lower ({lower:.3g}) beside "
            "it: predict_action and the loss speak of different numbers"
        )
        hint = "both are normalized; is one of them normalized or brought back once more?"
        faults.append(Fault(PATH, message, hint))
    return Claim(ABOUT, text, f"{least:.3g} there, {least + rise:.3g} one standard deviation off", faults=faults)


def _total(trial: Trial, policy: Policy, batch: Mapping[str, Any]) -> Tensor:
    return losses_of(trial, policy, batch)["total"]


def _sees(trial: Trial, policy: Policy, batch: Mapping[str, Any]) -> bool:
    """Say whether a component is given another input when the actions are other ones."""
    seen = []
    for by in (0.0, 1.0):
        given: dict[tuple[str, str], list[Tensor]] = {}
        with _given_to(trial, given), torch.no_grad():
            _total(trial, policy, {**batch, ACTION: batch[ACTION] + by})
        seen.append(given)
    one, other = seen
    return any(
        not torch.equal(a, b) for key in one for a, b in zip(one[key], other.get(key, []), strict=False)
    )
