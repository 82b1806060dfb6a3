"""The step skeleton: what every trainer does around the maths of its policy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trainer.engine.ema import WeightAverage
from trainer.utils.random import SampleRandom


@dataclass(frozen=True)
class StepSettings:
    """What the `train` section asks of a step.

    Attributes:
        seed: the run's seed, for the random numbers of samples.
        rank: this rank.
        world_size: number of ranks.
        gradient_clip_val: largest gradient norm per component, or None.
        ema_decay: decay of the weight average, or None.
    """

    seed: int = 0
    rank: int = 0
    world_size: int = 1
    gradient_clip_val: float | None = None
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

    def train_step(self, data: dict[str, Any], iterations: int) -> dict[str, Any]:
        """Make one update from one batch.

        Args:
            data: the batch of this rank, normalized, float32, on the device.
            iterations: number of updates made before this one.

        Returns:
            The policy's losses, `<component> grad_norm` where gradients are clipped, `<component> lr`;
            tensors stay on the device.
        """
        self._train_mode()
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        s = self.settings
        losses = self.policy.loss(data, SampleRandom(s.seed, iterations, s.rank, s.world_size, self.device))
        with torch.autocast(self.device.type, enabled=False):
            losses["total"].backward()
            metrics: dict[str, Any] = {name: value.detach() for name, value in losses.items()}
            metrics.update(self._clip())
            for name, optimizer in self.optimizers.items():
                metrics[f"{name} lr"] = optimizer.param_groups[0]["lr"]
                optimizer.step()
        if self.average is not None:
            self.average.update()
        return metrics

    def _train_mode(self) -> None:
        for name, optimizer in self.optimizers.items():
            self.models[name].train()
            switch_optimizer(optimizer, "train")

    def _clip(self) -> dict[str, Tensor]:
        """Scale down gradients that are too large, component by component; nothing waits for the device."""
        limit = self.settings.gradient_clip_val
        if limit is None:
            return {}
        return {
            f"{name} grad_norm": nn.utils.clip_grad_norm_(_parameters(optimizer), limit)
            for name, optimizer in self.optimizers.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs beyond weights and optimizers."""
        return {"average": self.average.state_dict() if self.average else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        if self.average is not None and state["average"] is not None:
            self.average.load_state_dict(state["average"])

    def deployed_weights(self) -> dict[str, dict[str, Tensor]]:
        """Return component name → the weights to use on a robot, where they differ from the trained ones."""
        return self.average.weights if self.average is not None else {}


def _parameters(optimizer: torch.optim.Optimizer) -> Iterable[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def switch_optimizer(optimizer: torch.optim.Optimizer, mode: str) -> None:
    """Call `train()` or `eval()` of a schedule-free optimizer; others have no modes."""
    switch = getattr(optimizer, mode, None)
    if callable(switch):
        switch()
