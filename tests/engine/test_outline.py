"""What a run would be made of is what it is made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_constructor import build_model, random_source
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from trainer.config.errors import ConfigError
from trainer.config.loader import load_located
from trainer.data.batch_path import BatchPath
from trainer.engine.build_data import build_data
from trainer.engine.check import check
from trainer.engine.outline import outline
from trainer.registry import TRAINER_REGISTRY
from trainer.templates import Context
from trainer.utils.random import SampleRandom

Write = Callable[..., Path]


def test_parameters_memory_and_arithmetic_are_those_of_the_real_thing(tiny_experiment: Write) -> None:
    checked = check(load_located(tiny_experiment()))
    data = build_data(checked)
    found = outline(checked, data)
    models = nn.ModuleDict({name: build_model(path) for name, path in checked.component_paths.items()})
    sizes = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    assert {part.name: (part.parameters, part.trained) for part in found.parts} == {
        name: (size, size) for name, size in sizes.items()
    }
    weights = 4 * sum(sizes.values())
    assert found.memory["weights"] == found.memory["gradients"] == found.memory["average"] == weights
    assert found.memory["optimizer"] == 2 * weights  # two moments of AdamW

    trainer = TRAINER_REGISTRY.get("state_flow_matching_trainer")
    policy = trainer.policy_class(models, **checked.config.train.trainer.params)  # type: ignore[attr-defined]
    batch = BatchPath(data.normalizer)(data.dataset.__getitems__(np.arange(16)))
    random, counter = SampleRandom(0), FlopCounterMode(display=False)
    kept: dict[int, int] = {}
    own = {p.data_ptr() for p in models.parameters()}

    def keep(value: torch.Tensor) -> torch.Tensor:
        if value.data_ptr() not in own:
            kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    with counter:
        with random_source(random), torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            total = policy.loss(batch, Context(random, training=True))["total"]
        total.backward()
    assert found.step is not None
    assert found.step.flops == counter.get_total_flops() > 0
    assert found.step.activations == sum(kept.values())


def test_the_batch_has_the_size_of_the_run_and_both_ranges(tiny_experiment: Write) -> None:
    checked = check(load_located(tiny_experiment()))
    data = build_data(checked)
    state = next(entry for entry in outline(checked, data).batch if entry.key == "observation.state")
    raw = data.dataset.__getitems__(np.linspace(0, len(data.dataset) - 1, 16).astype(np.int64))
    values = raw["observation.state"]
    assert (state.shape, state.dtype) == ((16, 2, 5), "float32")
    assert state.raw == (float(values.min()), float(values.max()))
    ready = data.normalizer.normalize({"observation.state": values})["observation.state"]
    assert state.ready == (float(ready.min()), float(ready.max()))


def test_a_loss_that_needs_numbers_is_named(tiny_experiment: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = check(load_located(tiny_experiment()))
    policy: Any = TRAINER_REGISTRY.get("state_flow_matching_trainer").policy_class  # type: ignore[attr-defined]
    own = policy.loss

    def looks(self: Any, batch: dict[str, torch.Tensor], context: Context) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = own(self, batch, context) if float(batch["action"].max()) < 9 else {}
        return found

    monkeypatch.setattr(policy, "loss", looks)
    found = outline(checked, build_data(checked))
    assert found.step is None
    assert found.why_not is not None
    assert "item" in found.why_not
    assert "activations" not in found.memory


def test_what_the_policy_cannot_be_made_of_is_a_mistake_before_any_proof(tiny_experiment: Write) -> None:
    def rename(config: dict[str, Any]) -> None:
        for section in ("component_config_paths", "component_optims"):
            named = config["model"][section]
            named["head"] = named.pop("velocity_decoder")

    checked = check(load_located(tiny_experiment(rename)))
    with pytest.raises(ConfigError, match=r"train.trainer: .*needs a component named velocity_decoder"):
        outline(checked, build_data(checked))


def test_a_loss_that_the_policy_does_not_take_is_a_mistake_before_any_proof(tiny_experiment: Write) -> None:
    def add_loss(config: dict[str, Any]) -> None:
        config["plugins"].append("experiment_training.components.loss.l2")
        config["train"]["loss"] = {"type": "l2_loss"}

    checked = check(load_located(tiny_experiment(add_loss)))
    with pytest.raises(ConfigError, match="StateFlowMatchingPolicy takes no loss"):
        outline(checked, build_data(checked))
