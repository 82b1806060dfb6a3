"""The step skeleton: what every trainer does around the maths of its policy."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trainer.engine.ema import WeightAverage
from trainer.engine.finite import SKIPPED, FiniteUpdates
from trainer.modeling.prepare import without_gradient_traffic
from trainer.utils.random import SampleRandom


@dataclass(frozen=True)
class StepSettings:
    """What the `train` section asks of a step.

    Attributes:
        seed: the run's seed, for the random numbers of samples.
        rank: this rank.
        world_size: number of ranks.
        parts: batches that make one update together.
        gradient_clip_val: largest gradient norm, for all components or by component, or None.
        clip_globally: the norm is that of all components together.
        non_finite: `stop`: gradients are not looked at; `skip`: an update with inf or NaN in its gradients is
            left out; `lower`: and the loss, which is scaled for fp16, is scaled less from then on.
        ema_decay: decay of the weight average, or None.
    """

    seed: int = 0
    rank: int = 0
    world_size: int = 1
    parts: int = 1
    gradient_clip_val: float | Mapping[str, float] | None = None
    clip_globally: bool = False
    non_finite: str = "stop"
    ema_decay: float | None = None


class PolicyTrainer:
    """Trains a policy: train mode, forward, backward of the one `total`, clip, step, average.

    A trainer plugin names its policy and is done::

        @TRAINER_REGISTRY.register("my_policy_trainer")
        class MyPolicyTrainer(PolicyTrainer):
            policy_class = MyPolicy

    `train.trainer.params` are the policy's own parameters.

    Args:
        models: the components, wrapped for several ranks where that is needed.
        optimizers: component name → optimizer; components without one are left as they are.
        loss: the loss module of `train.loss`, or None.
        device: where the batches are.
        settings: clipping, averaging, seed and rank.
        **params: the policy's parameters.
    """

    policy_class: ClassVar[Callable[..., Any]]
    parameters: ClassVar[Callable[..., Any]]

    def __init_subclass__(cls) -> None:
        """Let the signature of the policy say which parameters the trainer takes."""
        cls.parameters = cls.policy_class

    def __init__(
        self,
        models: nn.ModuleDict,
        optimizers: dict[str, torch.optim.Optimizer],
        loss: nn.Module | None,
        device: torch.device,
        settings: StepSettings,
        **params: Any,
    ) -> None:
        self.models = models
        self.optimizers = optimizers
        self.device = device
        self.settings = settings
        self.policy = type(self).policy_class(models, loss, **params)
        self.average = WeightAverage(models, settings.ema_decay) if settings.ema_decay else None
        # Setting the mode walks through all modules and sets it in each; looking at it costs a tenth of that.
        self._trained = {name: list(models[name].modules()) for name in optimizers}
        watched = settings.non_finite != "stop"
        self.finite = FiniteUpdates(device, settings.non_finite == "lower") if watched else None

    def train_step(self, data: dict[str, Any], iterations: int, part: int = 0) -> dict[str, Any]:
        """Learn from one batch; the last part of an update makes it.

        Args:
            data: the batch of this rank, normalized, float32, on the device.
            iterations: number of updates made before this one.
            part: which of the update's batches this is.

        Returns:
            The policy's losses, and after the last part `<component> grad_norm` where gradients are clipped,
            `<component> lr`, and `skipped` where non-finite gradients are; tensors stay on the device.
        """
        s = self.settings
        last = part == s.parts - 1
        if part == 0:
            self._train_mode()
            for optimizer in self.optimizers.values():
                optimizer.zero_grad(set_to_none=True)
        # Parts are ranks in time: the numbers belong to the sample's place among all those of the update.
        place = (part * s.world_size + s.rank, s.parts * s.world_size)
        with contextlib.nullcontext() if last else without_gradient_traffic(self.models):
            losses = self.policy.loss(data, SampleRandom(s.seed, iterations, *place, self.device))
            with torch.autocast(self.device.type, enabled=False):
                total = losses["total"] if s.parts == 1 else losses["total"] / s.parts
                (total if self.finite is None else self.finite.scaled_loss(total)).backward()
        metrics: dict[str, Any] = {name: value.detach() for name, value in losses.items()}
        if last:
            with torch.autocast(self.device.type, enabled=False):
                metrics.update(self._update())
        return metrics

    def _train_mode(self) -> None:
        for name, optimizer in self.optimizers.items():
            if not all(module.training for module in self._trained[name]):
                self.models[name].train()
            switch_optimizer(optimizer, "train")

    def _update(self) -> dict[str, Any]:
        """Clip, step, average."""
        metrics: dict[str, Any] = {
            f"{name} lr": optimizer.param_groups[0]["lr"] for name, optimizer in self.optimizers.items()
        }
        if self.finite is not None:
            everything = [p for optimizer in self.optimizers.values() for p in _parameters(optimizer)]
            metrics[SKIPPED] = self.finite.verdict([p.grad for p in everything if p.grad is not None])
        metrics.update(self._clip())
        if self.finite is not None:
            self.finite.step(self.optimizers.values(), metrics[SKIPPED])
        else:
            for optimizer in self.optimizers.values():
                optimizer.step()
        if self.average is not None:
            self.average.update()
        return metrics

    def _clip(self) -> dict[str, Tensor]:
        """Scale down gradients that are too large; nothing waits for the device."""
        s = self.settings
        if s.gradient_clip_val is None:
            return {}
        if s.clip_globally:
            everything = [p for optimizer in self.optimizers.values() for p in _parameters(optimizer)]
            assert not isinstance(s.gradient_clip_val, Mapping)
            return {"grad_norm": nn.utils.clip_grad_norm_(everything, s.gradient_clip_val)}
        limits = s.gradient_clip_val
        return {
            f"{name} grad_norm": nn.utils.clip_grad_norm_(
                _parameters(optimizer), limits[name] if isinstance(limits, Mapping) else limits
            )
            for name, optimizer in self.optimizers.items()
            if not isinstance(limits, Mapping) or name in limits
        }

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs beyond weights and optimizers."""
        return {
            "average": self.average.state_dict() if self.average else None,
            "finite": self.finite.state_dict() if self.finite else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        if self.average is not None and state["average"] is not None:
            self.average.load_state_dict(state["average"])
        if self.finite is not None and state.get("finite"):
            self.finite.load_state_dict(state["finite"])

    def deployed_weights(self) -> dict[str, dict[str, Tensor]]:
        """Return component name → the weights to use on a robot, where they differ from the trained ones."""
        return self.average.weights if self.average is not None else {}


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def switch_optimizer(optimizer: torch.optim.Optimizer, mode: str) -> None:
    """Call `train()` or `eval()` of a schedule-free optimizer; others have no modes."""
    switch = getattr(optimizer, mode, None)
    if callable(switch):
        switch()
