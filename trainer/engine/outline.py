"""What a run would be made of: components, batch, memory and arithmetic; nothing is allocated for it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from model_constructor import random_source
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from trainer.config.errors import ConfigError
from trainer.data.batch_path import BatchPath
from trainer.data.columns import pictures_of
from trainer.deployment.policy_parts import build_models
from trainer.engine.build_data import Data
from trainer.engine.check import CheckedConfig
from trainer.engine.misfit import is_certain, misfit
from trainer.engine.optimizers import numbers_per_parameter
from trainer.engine.parts import policy_over
from trainer.engine.rehearsal import explain
from trainer.modeling.initialize import count_parameters, freeze
from trainer.templates import Context
from trainer.utils.seed import kept_random_state

_FLOAT = 4
_LOOKED_AT = 16


@dataclass(frozen=True)
class Part:
    """A component.

    Attributes:
        name: its key.
        model: its YAML, as the configuration names it.
        how: `frozen`, `not trained`, or its optimizer.
        parameters: how many; None where it cannot be built without memory.
        trained: how many take gradients.
        why_not: the reason where it cannot be built.
    """

    name: str
    model: str
    how: str
    parameters: int | None
    trained: int
    why_not: str | None = None


@dataclass(frozen=True)
class Entry:
    """One key of a batch of a rank.

    Attributes:
        key: its name.
        shape: with the batch size of the run.
        dtype: what the policy gets.
        raw: least and largest number in the units of the dataset, in the samples that were looked at; None
            of what is no tensor.
        ready: the same as the policy gets it.
    """

    key: str
    shape: tuple[int, ...]
    dtype: str
    raw: tuple[float, float] | None
    ready: tuple[float, float] | None


@dataclass(frozen=True)
class Step:
    """One micro-batch of a rank, forward and backward.

    Attributes:
        activations: bytes that are kept from the forward pass for the backward one.
        flops: floating-point operations of both.
    """

    activations: int
    flops: int


@dataclass(frozen=True)
class Outline:
    """What a run would be made of.

    Attributes:
        parts: its components.
        batch: of a rank.
        step: what a micro-batch takes; None where that cannot be told without memory.
        why_not: the reason.
        state_per_parameter: numbers that the optimizers keep for each trained parameter.
        averages: whether there is an average of the weights.
    """

    parts: tuple[Part, ...]
    batch: tuple[Entry, ...]
    step: Step | None
    why_not: str | None
    state_per_parameter: float
    averages: bool

    @property
    def memory(self) -> dict[str, int]:
        """Bytes on the device of a rank, by what they are for; without what is unknown."""
        parameters = sum(part.parameters or 0 for part in self.parts)
        trained = sum(part.trained for part in self.parts)
        found = {
            "weights": _FLOAT * parameters,
            "gradients": _FLOAT * trained,
            "optimizer": int(_FLOAT * trained * self.state_per_parameter),
        }
        if self.averages:
            found["average"] = _FLOAT * trained
        found["batch"] = sum(_bytes(entry) for entry in self.batch)
        if self.step is not None:
            found["activations"] = self.step.activations
        return found


def _bytes(entry: Entry) -> int:
    size = {"bool": 1, "uint8": 1, "int64": 8, "float64": 8}.get(entry.dtype, _FLOAT)
    return int(np.prod(entry.shape, dtype=np.int64)) * size


def outline(checked: CheckedConfig, data: Data) -> Outline:
    """Return what a run would be made of.

    Args:
        checked: the configuration.
        data: what it trains on; a few samples are read.

    Raises:
        ConfigError: components, policy and data do not fit together.
    """
    config = checked.config
    models: dict[str, nn.Module] = {}
    parts = tuple(_parts(checked, models))
    rows = np.linspace(0, len(data.dataset) - 1, min(_LOOKED_AT, len(data.dataset))).astype(np.int64)
    raw = dict(data.dataset.__getitems__(rows))
    ready = BatchPath(data.normalizer, cameras=pictures_of(data.dataset))(raw)
    step: Step | None = None
    why_not = next((part.why_not for part in parts if part.why_not), None)
    if why_not is None:
        try:
            step = _step(checked, nn.ModuleDict(models), ready)
        except ConfigError:
            raise
        except Exception as error:  # whatever a policy does that needs real numbers
            if is_certain(error):
                raise misfit(checked, models, error) from error
            why_not = f"{type(error).__name__}: {explain(error)}"
    trained = {part.name: part.trained for part in parts if part.trained}
    kept = sum(numbers_per_parameter(config.optimizers[n][1]) * count for n, count in trained.items())
    return Outline(
        parts=parts,
        batch=tuple(_entries(raw, ready, len(rows), config.data.batch_size)),
        step=step,
        why_not=why_not,
        state_per_parameter=kept / max(sum(trained.values()), 1),
        averages=config.train.ema.enabled,
    )


def _parts(checked: CheckedConfig, models: dict[str, nn.Module]) -> Iterator[Part]:
    """Yield the components, and build each on the meta device."""
    config = checked.config
    frozen = {name for name, flags in config.model.component_build_args.items() if flags.freeze}
    for name, path in config.model.component_config_paths.items():
        optimizer = config.optimizers.get(name)
        how = "frozen" if name in frozen else f"{optimizer[1].type}" if optimizer else "not trained"
        try:
            with torch.device("meta"), kept_random_state():
                model = build_models({name: checked.component_paths[name]}, pretrained=False)[name]
        except (ValueError, RuntimeError, TypeError, NotImplementedError) as error:
            yield Part(name, path, how, None, 0, f"{type(error).__name__}: {explain(error)}")
            continue
        if optimizer is None:
            freeze(model)
        models[name] = model.to("meta")
        yield Part(name, path, how, *count_parameters(model))


def _entries(raw: Mapping[str, Any], ready: Mapping[str, Any], rows: int, batch: int) -> Iterator[Entry]:
    for key, value in ready.items():
        if not isinstance(value, Tensor):
            yield Entry(key, (batch,), type(value).__name__, None, None)
            continue
        shape = (batch, *value.shape[1:]) if value.ndim and len(value) == rows else tuple(value.shape)
        dtype = str(value.dtype).removeprefix("torch.")
        yield Entry(key, shape, dtype, _range(raw.get(key)), _range(value))


def _range(value: Any) -> tuple[float, float] | None:
    if not isinstance(value, Tensor) or not value.numel():
        return None
    return float(value.min()), float(value.max())


class _NoNumbers:
    """Stands for random numbers where there is no memory; see `trainer.utils.random.Random`."""

    def normal(self, shape: tuple[int, ...], *, shared: bool = False) -> Tensor:
        """Return a place for numbers."""
        return torch.empty(shape, device="meta")

    def uniform(self, shape: tuple[int, ...], *, shared: bool = False) -> Tensor:
        """Return a place for numbers."""
        return torch.empty(shape, device="meta")

    def bernoulli(self, p: float, shape: tuple[int, ...], *, shared: bool = False) -> Tensor:
        """Return a place for flags."""
        return torch.empty(shape, dtype=torch.bool, device="meta")

    def permutation(self, n: int) -> list[int]:
        """Return the numbers in their order."""
        return list(range(n))


def _step(checked: CheckedConfig, models: nn.ModuleDict, ready: Mapping[str, Any]) -> Step | None:
    """Go forward and backward on the meta device, with the batch size of the run."""
    config = checked.config
    policy = policy_over(checked, models)
    if policy is None:
        return None
    policy.to("meta")
    size = config.data.batch_size
    batch = {
        key: torch.empty((size, *value.shape[1:]), dtype=value.dtype, device="meta")
        if isinstance(value, Tensor) and value.ndim
        else value
        for key, value in ready.items()
    }
    for name in config.optimizers:
        models[name].train()
    kept: dict[int, int] = {}
    held: list[Any] = []

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage._cdata not in kept:
            held.append(storage)  # so that its number is not given again
            kept[storage._cdata] = storage.nbytes()
        return value

    random = _NoNumbers()
    counter = FlopCounterMode(display=False)
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value)
    with counter:
        with torch.device("meta"), random_source(random), kept_random_state(), hooks:
            total = policy.loss(batch, Context(random, training=True, total_steps=1))["total"]
        total.backward()
    parameters = {p.untyped_storage()._cdata for p in models.parameters()}
    return Step(sum(size for key, size in kept.items() if key not in parameters), counter.get_total_flops())


def flops_per_second(seconds: float = 0.2) -> float:
    """Return how many floating-point operations a second this CPU makes in large matrix products."""
    a = torch.rand(768, 768)
    a @ a
    products, since = 0, time.perf_counter()
    while time.perf_counter() - since < seconds:
        a @ a
        products += 1
    return products * 2 * 768**3 / (time.perf_counter() - since)
