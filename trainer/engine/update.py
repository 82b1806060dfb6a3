"""The update: what turns losses into new weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainer.engine.average import Average
from trainer.engine.finite import SKIPPED, FiniteUpdates
from trainer.modeling.component import Components, clip_gradients
from trainer.templates import Context
from trainer.utils.errors import TrainingFault
from trainer.utils.text import what_it_is


@dataclass(frozen=True)
class UpdateSettings:
    """What the `train` section asks of an update.

    Attributes:
        gradient_clip_val: largest gradient norm, for all components or by component, or None.
        clip_globally: the norm is that of all components together.
        non_finite: `stop`: gradients are not looked at; `skip`: an update with inf or NaN in its gradients is
            left out; `lower`: and the loss, which is scaled for fp16, is scaled less from then on.
        ema_decay: decay of the weight average, or None.
    """

    gradient_clip_val: float | Mapping[str, float] | None = None
    clip_globally: bool = False
    non_finite: str = "stop"
    ema_decay: float | None = None


class Update:
    """Zeroes gradients, goes backward, clips, steps and averages.

    One phase of a training step is `begin`, losses, `backward`, `finish`::

        update.begin(context)
        losses = policy.loss(batch, context)
        update.backward(losses["total"])
        metrics = update.finish()

    A trainer with several phases, such as one with an adversary, does this for each with the names of the
    components that the phase trains; what its loss says of the others is forgotten. With gradient
    accumulation every micro-batch goes through all phases, and only the last one changes weights.

    Args:
        components: of the policy.
        optimizers: component name → optimizer; a component without one is left as it is.
        settings: clipping, averaging, non-finite gradients.
        device: where the components are.

    Attributes:
        after: called with the names of a phase when its weights have changed: schedules of the policy's own,
            codes that are re-seeded.
    """

    def __init__(
        self,
        components: Components,
        optimizers: Mapping[str, torch.optim.Optimizer],
        settings: UpdateSettings,
        device: torch.device,
    ) -> None:
        self.components = components
        self.optimizers = optimizers
        self.settings = settings
        self.device = device
        self.after: list[Callable[[tuple[str, ...]], None]] = []
        decay = settings.ema_decay
        self.averages = {n: Average(c, decay) for n, c in components.items() if c.trained and decay}
        self.teachers: dict[str, Average] = {}
        watched = settings.non_finite != "stop"
        self.finite = FiniteUpdates(device, settings.non_finite == "lower") if watched else None
        # Setting the mode walks through all modules and sets it in each; looking at it costs a tenth of that.
        self._modules = {name: list(components[name].module.modules()) for name in optimizers}
        self._names: tuple[str, ...] = ()
        self._context: Context | None = None
        self._set_aside: list[tuple[nn.Parameter, Tensor | None]] = []

    def begin(self, context: Context, names: tuple[str, ...] | None = None) -> None:
        """Prepare the components that a phase trains.

        Args:
            context: of this micro-batch.
            names: the components; all that have an optimizer by default.

        Raises:
            ValueError: a name has no optimizer.
        """
        self._names = tuple(self.optimizers) if names is None else names
        self._context = context
        unknown = [name for name in self._names if name not in self.optimizers]
        if unknown:
            raise ValueError(
                f"component '{unknown[0]}' has no optimizer; there are {', '.join(self.optimizers)}"
            )
        for name, optimizer in self.optimizers.items():
            if not all(module.training for module in self._modules[name]):
                self.components[name].module.train()
            switch_optimizer(optimizer, "train")
            if context.micro_batch == 0 and name in self._names:
                # As `zero_grad` does, without what that sets up for a profiler at every call.
                for parameter in _parameters(optimizer):
                    parameter.grad = None
            on = context.last and name in self._names
            self.components[name].sync_gradients(on, in_phases=len(self._names) < len(self.optimizers))
        # The losses of this phase must leave no trace in what another one has accumulated.
        others = [o for name, o in self.optimizers.items() if name not in self._names]
        self._set_aside = [(p, p.grad) for optimizer in others for p in _parameters(optimizer)]
        for parameter, _ in self._set_aside:
            parameter.grad = None

    def backward(self, total: Tensor) -> None:
        """Differentiate the one loss of this phase and micro-batch, a scalar.

        Raises:
            TrainingFault: it is none, or no weight has a part in it.
        """
        context = self._begun()
        if not (isinstance(total, Tensor) and total.numel() == 1 and total.requires_grad):
            alone = " on which no weight has an influence" if getattr(total, "shape", None) == () else ""
            raise TrainingFault(
                f"the loss to train is {what_it_is(total)}{alone}; it must be one number, as a tensor, that "
                "depends on the weights"
            )
        with self._full_precision():
            if context.micro_batches > 1:
                total = total / context.micro_batches
            (total if self.finite is None else self.finite.scaled_loss(total)).backward()

    def finish(self) -> dict[str, Any]:
        """Change the weights, if this was the last micro-batch.

        Returns:
            Then `<component> lr`, where gradients are clipped `<component> grad_norm` or one `grad_norm`, and
            where non-finite ones are `skipped`; tensors stay on the device. Before, nothing.
        """
        context = self._begun()
        for parameter, gradient in self._set_aside:
            parameter.grad = gradient
        self._set_aside = []
        if not context.last:
            return {}
        with self._full_precision():
            metrics = self._step()
        for call in self.after:
            call(self._names)
        return metrics

    def shadow(self, name: str, decay: float) -> nn.Module:
        """Return a teacher: a frozen copy of a component that follows it by a moving average.

        It moves with every update of its component, and is saved and resumed.

        Args:
            name: of the component.
            decay: share of the teacher that an update keeps.

        Raises:
            ValueError: the component has a teacher, is not trained, or the decay is not in [0, 1).
        """
        if name in self.teachers:
            raise ValueError(f"component '{name}' has a teacher already")
        if name not in self.optimizers:
            raise ValueError(f"component '{name}' is not trained, so a teacher would stay as it is")
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of a teacher is in [0, 1), not {decay}")
        component = self.components[name]
        teacher = component.shadow()
        self.teachers[name] = Average(component, decay, into=teacher.local_state(), warm_up=False)
        return teacher.module

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs beyond weights and optimizers, in whole tensors. All ranks meet."""
        return {
            "averages": {name: average.state_dict() for name, average in self.averages.items()},
            "teachers": {name: teacher.state_dict() for name, teacher in self.teachers.items()},
            "finite": self.finite.state_dict() if self.finite else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned, under whatever strategy."""
        for kind, averages in (("averages", self.averages), ("teachers", self.teachers)):
            for name, average in averages.items():
                if name in state.get(kind, {}):
                    average.load_state_dict(state[kind][name])
        if self.finite is not None and state.get("finite"):
            self.finite.load_state_dict(state["finite"])

    def averaged(self) -> dict[str, dict[str, Tensor]]:
        """Return component → its average, whole, where it has one. All ranks meet."""
        return {name: average.full() for name, average in self.averages.items()}

    def _full_precision(self) -> AbstractContextManager[Any]:
        """Return the context of what autocast is not for."""
        kind = self.device.type
        return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()

    def _begun(self) -> Context:
        if self._context is None:
            raise RuntimeError("Update.begin comes before backward and finish")
        return self._context

    def _step(self) -> dict[str, Any]:
        """Clip, step, average."""
        optimizers = {name: self.optimizers[name] for name in self.optimizers if name in self._names}
        metrics: dict[str, Any] = {
            f"{name} lr": optimizer.param_groups[0]["lr"] for name, optimizer in optimizers.items()
        }
        if self.finite is not None:
            everything = [p for optimizer in optimizers.values() for p in _parameters(optimizer)]
            metrics[SKIPPED] = self.finite.verdict([p.grad for p in everything if p.grad is not None])
        metrics.update(self._clip(optimizers))
        if self.finite is not None:
            self.finite.step(optimizers.values(), metrics[SKIPPED])
        else:
            for optimizer in optimizers.values():
                optimizer.step()
        for averages in (self.averages, self.teachers):
            for name in (n for n in self._names if n in averages):
                averages[name].update()
        return metrics

    def _clip(self, optimizers: Mapping[str, torch.optim.Optimizer]) -> dict[str, Tensor]:
        """Scale down gradients that are too large; nothing waits for the device."""
        limits = self.settings.gradient_clip_val
        if limits is None:
            return {}
        if self.settings.clip_globally:
            assert not isinstance(limits, Mapping)
            everything = [p for optimizer in optimizers.values() for p in _parameters(optimizer)]
            return {"grad_norm": clip_gradients(everything, limits)}
        return {
            f"{name} grad_norm": clip_gradients(
                _parameters(optimizer), limits[name] if isinstance(limits, Mapping) else limits
            )
            for name, optimizer in optimizers.items()
            if not isinstance(limits, Mapping) or name in limits
        }


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def switch_optimizer(optimizer: torch.optim.Optimizer, mode: str) -> None:
    """Call `train()` or `eval()` of a schedule-free optimizer; others have no modes."""
    switch = getattr(optimizer, mode, None)
    if callable(switch):
        switch()
