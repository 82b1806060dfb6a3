"""Callbacks that watch the trial: which gradients come, and who else changes weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from model_constructor import ConfigPath
from torch import Tensor, nn

from trainer.engine.check import CheckedConfig
from trainer.engine.experiment import Experiment
from trainer.templates import Callback


class Witness(Callback):
    """Notes the largest gradient of every trained parameter.

    Attributes:
        gradients: (component, parameter) → largest absolute value of any gradient; None where none came.
        rates: component → sum of its largest learning rates.
        meddled: config path of a callback → what it has changed.
        more: asks for one more update.
    """

    def __init__(self) -> None:
        self.gradients: dict[tuple[str, str], float | None] = {}
        self.rates: dict[str, float] = {}
        self.meddled: dict[ConfigPath, str] = {}
        self.more: Callable[[], None] = lambda: None
        self._first: dict[str, dict[str, Tensor]] = {}

    def before_training(self, experiment: Experiment) -> None:
        """Listen to every parameter that is trained."""
        for name in experiment.optimizers:
            for key, parameter in experiment.components[name].module.named_parameters():
                if parameter.requires_grad:
                    self._listen((name, key), parameter)
            self._first[name] = _copied(dict(experiment.components[name].module.named_parameters()))

    def _listen(self, key: tuple[str, str], parameter: nn.Parameter) -> None:
        self.gradients[key] = None

        def note(parameter: Tensor) -> None:
            assert parameter.grad is not None
            largest = float(parameter.grad.abs().max()) if parameter.grad.numel() else 0.0
            self.gradients[key] = max(self.gradients[key] or 0.0, largest)

        parameter.register_post_accumulate_grad_hook(note)

    def after_step(self, experiment: Experiment, metrics: Mapping[str, Any]) -> None:
        """Ask for another update while a parameter waits for its first gradient, or a component to move."""
        for name in experiment.optimizers:
            largest = max(float(group["lr"]) for group in experiment.optimizers[name].param_groups)
            self.rates[name] = self.rates.get(name, 0.0) + largest
        if not all(self.gradients.values()) or self._stands_still(experiment):
            self.more()

    def _stands_still(self, experiment: Experiment) -> bool:
        """Say whether a component has not moved at all: some optimizers begin with updates without effect."""
        return any(
            all(torch.equal(value, first[key]) for key, value in module.named_parameters())
            for first, module in ((f, experiment.components[n].module) for n, f in self._first.items())
        )


class _Watched(Callback):
    """Another callback, whose every call is looked at: it must leave the weights alone."""

    def __init__(self, callback: Callback, path: ConfigPath, witness: Witness) -> None:
        self.callback = callback
        self.path = path
        self.witness = witness

    def watches(self) -> Sequence[str]:
        """Wait for what the callback waits for."""
        return self.callback.watches()

    def measures(self) -> Sequence[str] | None:
        """Measure what the callback measures."""
        return self.callback.measures()

    def before_training(self, experiment: Experiment) -> None:
        """Let it act."""
        self._looked_at(experiment, "before_training", experiment)

    def after_step(self, experiment: Experiment, metrics: Mapping[str, Any]) -> None:
        """Let it act."""
        self._looked_at(experiment, "after_step", experiment, metrics)

    def after_epoch(self, experiment: Experiment) -> Mapping[str, float] | None:
        """Let it act."""
        scores: Mapping[str, float] | None = self._looked_at(experiment, "after_epoch", experiment)
        return scores

    def after_training(self, experiment: Experiment) -> None:
        """Let it act."""
        self._looked_at(experiment, "after_training", experiment)

    def state_dict(self) -> dict[str, Any]:
        """Return its state."""
        return self.callback.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up its state."""
        self.callback.load_state_dict(state)

    def _looked_at(self, experiment: Experiment, method: str, *args: Any) -> Any:
        before = {n: _copied(c.local_state()) for n, c in experiment.components.items()}
        drawn = torch.get_rng_state()
        result = getattr(self.callback, method)(*args)
        for name, component in experiment.components.items():
            after = component.local_state()
            changed = [key for key, value in before[name].items() if not torch.equal(value, after[key])]
            if changed:
                self._note(f"changes {changed[0]} of component '{name}' in its {method}")
        if method == "after_step" and not torch.equal(drawn, torch.get_rng_state()):
            self._note("draws from torch's global generator in its after_step, so dropout differs with it")
        return result

    def _note(self, what: str) -> None:
        self.witness.meddled.setdefault(self.path, what)


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in state.items()}


def watched(callbacks: Sequence[Callback], checked: CheckedConfig, witness: Witness) -> list[Callback]:
    """Return the callbacks of a run with those of the configuration looked at."""
    paths = {id(callback): path for path, callback in checked.callbacks.items()}
    return [_wrapped(one, paths[id(one)], witness) if id(one) in paths else one for one in callbacks]


def _wrapped(callback: Callback, path: ConfigPath, witness: Witness) -> Callback:
    """Return a callback looked at, of a class that is called the same: checkpoints tell them by that."""
    kind: type[_Watched] = type(type(callback).__name__, (_Watched,), {})
    return kind(callback, path, witness)
