"""Claims about deployment: a robot sees and does with a sample what training sees and learns of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from model_constructor import resolve_config
from torch import Tensor, nn

from trainer.checkpoint.folder import CheckpointError
from trainer.data.batches import Batch
from trainer.data.columns import ACTION
from trainer.deployment.deployed_policy import DeployedPolicy
from trainer.deployment.robot_policy import load_policy
from trainer.engine.proofs.asking import Answer, action_of
from trainer.engine.proofs.claim import Claim, Fault, not_applicable
from trainer.engine.proofs.trial import Trial
from trainer.templates import Context, Policy
from trainer.utils.random import RowRandom

ABOUT = "deployment"
PATH = ("train", "trainer")
_CLOSE = 1e-4
"""Float32 on two ways, relative to numbers of about 1."""

TEXTS = (
    "a robot sees the normalized observation of training",
    "a robot gets the action of training, in the units of the dataset",
    "an action comes back from its normalization",
)


def deployment_claims(trial: Trial, answer: Answer) -> Iterator[Claim]:
    """Yield the claims about the deployed policy, which is loaded from the checkpoint of the trial.

    Args:
        trial: the run.
        answer: of the policy that the running training would deploy.
    """
    why = _why_not(trial)
    if why is not None:
        for text in TEXTS:
            yield not_applicable(ABOUT, text, why)
        return
    raw = dict(trial.data.dataset.__getitems__(answer.row))
    try:
        robot = _robot(trial)
        seen, action = _acted(robot, raw)
    except (CheckpointError, ValueError, RuntimeError, TypeError, KeyError, IndexError) as error:
        message = f"the deployed policy fails: {type(error).__name__}: {error}"
        yield Claim(ABOUT, TEXTS[0], "it cannot act", faults=[Fault(PATH, message)])
        return
    yield _observes(answer.batch, seen)
    yield _acts(trial, robot, answer, action)
    yield _units(trial, answer.batch, raw)


def _why_not(trial: Trial) -> str | None:
    if not isinstance(trial.experiment.policy, Policy):
        return "the trainer trains no policy that acts"
    if ACTION not in trial.experiment.facts.get("windows", {}):
        return "the dataset tells no windows"
    if trial.experiment.facts.get("datasets"):
        return "the samples of a mixture are those of several robots"
    return None


def _robot(trial: Trial) -> DeployedPolicy:
    trust = {name.partition(".")[0] for name in trial.config.plugins}
    for model in trial.checked.component_paths.values():
        trust |= {prefix.rstrip(".") for prefix in resolve_config(model).settings.allowed_import_prefixes}
    return load_policy(trial.checkpoint, "cpu", n_action_steps=1, trust=sorted(trust))


class _Listening(nn.Module):
    """A policy that keeps what it was last asked, and draws the same numbers at every step of a robot.

    Args:
        policy: that answers.
        still: a chunk `(1, H, A)` that is the answer until `answers` is set: a chunk may take a hundred
            steps of a large network, and the robot is compared at its last step alone.
    """

    def __init__(self, policy: Policy, still: Tensor) -> None:
        super().__init__()
        self.policy = policy
        self.still = still
        self.answers = False
        self.seen: dict[str, Tensor] = {}

    def predict_action(self, observation: dict[str, Tensor], context: Context) -> Tensor:
        """Note the observation and ask the policy."""
        self.seen = {k: v.clone() for k, v in observation.items() if isinstance(v, Tensor)}
        return action_of(self.policy, observation, RowRandom([0])) if self.answers else self.still


def _acted(robot: DeployedPolicy, raw: Mapping[str, Any]) -> tuple[dict[str, Tensor], np.ndarray]:
    """Let the robot live through the history of a sample; return what its policy was last asked, and did."""
    listening = _Listening(robot.policy, torch.zeros_like(raw[ACTION], dtype=torch.float32))
    robot.policy = listening
    robot.reset(0)
    # A chunk is asked for at every step, or with a stride at every few; the sample's own must be one of them.
    before = -(-(robot.memory - 1) // robot.stride) * robot.stride
    action = np.zeros(0)
    for offset in range(-before, 1):
        listening.answers = offset == 0
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


def _observes(batch: Batch, seen: Mapping[str, Tensor]) -> Claim:
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
            message = (
                f"a robot sees '{key}' other than training does, by up to {apart:.3g} in normalized units"
            )
            hint = "does the dataset change it beyond what its columns and windows say?"
            faults.append(Fault(("data", "datamodule"), message, hint))
    measured = f"{worst:.2g} apart at most, in {', '.join(compared)}"
    return Claim(ABOUT, TEXTS[0], measured, faults=faults[:1])


def _acts(trial: Trial, robot: DeployedPolicy, answer: Answer, action: np.ndarray) -> Claim:
    """Compare with the weights that the running training would deploy, on its own batch."""
    normalizer = trial.experiment.normalizer.for_dataset()
    wanted = normalizer.denormalize(ACTION, answer.chunk.float()).numpy()[0, robot.first_action]
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


def _units(trial: Trial, batch: Batch, sample: Mapping[str, Any]) -> Claim:
    raw = sample[ACTION][0].double()
    back = trial.experiment.normalizer.for_dataset().denormalize(ACTION, batch[ACTION])[0].double()
    width = min(back.shape[-1], raw.shape[-1])
    apart = float((back[..., :width] - raw[..., :width]).abs().max())
    faults = []
    if not apart <= 1e-3 * max(1.0, float(raw.abs().max())):
        message = (
            f"an action that is normalized and brought back is {apart:.3g} off, in the units of the dataset"
        )
        faults.append(
            Fault(("data", "normalization"), message, "do the statistics of 'action' hold its constants?")
        )
    return Claim(ABOUT, TEXTS[2], f"{apart:.2g} off at most", faults=faults)
