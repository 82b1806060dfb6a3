"""The four snippets of the user's document, as they stand there, with and without parameters."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer.config.errors import ConfigError
from trainer.offline_trainer import train
from trainer.utils.errors import TrainingFault

Write = Callable[..., Path]

DATA = """
import torch
from trainer.registry import DATASET_BUILDER_REGISTRY

class Line(torch.utils.data.Dataset):
    def __init__(self, length, slope):
        self.length, self.slope = length, slope
    def __len__(self):
        return self.length
    def __getitem__(self, index):
        state = torch.tensor([index / self.length])
        return {"observation.state": state, "action": self.slope * state}

@DATASET_BUILDER_REGISTRY.register("open_data")
class OpenDatasetFactory:
    def build(self, opt_params, params) -> dict:
        assert {"local_rank", "dist_enabled", "save_dir"} <= set(opt_params)
        return {"dataset": Line(params.get("length", 32), params.get("slope", 2.0))}

@DATASET_BUILDER_REGISTRY.register("constructed_data")
class ConstructedDatasetFactory:
    def __init__(self, length: int, slope: float = 2.0):
        self.length, self.slope = length, slope
    def build(self, opt_params, params) -> dict:
        return {"dataset": Line(self.length, self.slope), "norm_stats": None}

class LineParams:
    def __init__(self, length: int, slope: float = 2.0):
        self.length, self.slope = length, slope

@DATASET_BUILDER_REGISTRY.register("declared_data")
class DeclaredDatasetFactory:
    parameters = LineParams
    def build(self, opt_params, params):
        chosen = LineParams(**params)
        return Line(chosen.length, chosen.slope)
"""
REST = """
import torch
from torch import nn
from trainer.registry import LOSS_BUILDER_REGISTRY, OPTIMIZER_BUILDER_REGISTRY, TRAINER_REGISTRY

@TRAINER_REGISTRY.register("my_trainer")
class MyTrainer:
    def __init__(self, models, optimizers, loss, device):
        self.models, self.optimizers, self.loss = models, optimizers, loss
    def train_step(self, data, **kwargs) -> dict:
        assert {"epoch", "total_epochs", "iterations"} <= set(kwargs)
        error = self.loss(self.models["head"](state=data["observation.state"]), data["action"])
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        error.backward()
        for optimizer in self.optimizers.values():
            optimizer.step()
        return {"error": error}

@TRAINER_REGISTRY.register("my_trainer_with_scale")
class MyTrainerWithScale(MyTrainer):
    def __init__(self, models, optimizers, loss, device, scale: float = 1.0):
        super().__init__(models, optimizers, lambda a, b: scale * loss(a, b), device)

@TRAINER_REGISTRY.register("my_forgetful_trainer")
class MyForgetfulTrainer(MyTrainer):
    def train_step(self, data, **kwargs):
        super().train_step(data, **kwargs)

@LOSS_BUILDER_REGISTRY.register("my_loss")
class MyLossFactory:
    def build(self) -> nn.Module:
        return nn.MSELoss()

@LOSS_BUILDER_REGISTRY.register("my_loss_with_reduction")
class MyLossWithReductionFactory:
    def __init__(self, reduction: str):
        self.reduction = reduction
    def build(self) -> nn.Module:
        return nn.MSELoss(reduction=self.reduction)

@OPTIMIZER_BUILDER_REGISTRY.register("my_optim")
class MyOptimFactory:
    def build(self, params) -> torch.optim.Optimizer:
        return torch.optim.SGD(params, lr=0.1)

@OPTIMIZER_BUILDER_REGISTRY.register("my_optim_with_rate")
class MyOptimWithRateFactory:
    def __init__(self, lr: float):
        self.lr = lr
    def build(self, params) -> torch.optim.Optimizer:
        return torch.optim.SGD(params, lr=self.lr)
"""
HEAD = """
schema_version: 1
model:
  graph:
    inputs: [state]
    modules: {head: {_type_: nn.Linear, in_features: 1, out_features: 1}}
    nodes: [{name: action, call: "module:head", args: [$state]}]
    outputs: [action]
"""


@pytest.fixture
def losses(tiny_experiment: Write, tmp_path: Path) -> Callable[..., list[float]]:
    """Return a function that trains with the given specs and returns the error of every step."""
    (tmp_path / "document_data.py").write_text(DATA)
    (tmp_path / "document_rest.py").write_text(REST)
    (tmp_path / "head.yaml").write_text(HEAD)

    def run(
        data: dict[str, Any],
        trainer: dict[str, Any] | None = None,
        loss: dict[str, Any] | None = None,
        optimizer: dict[str, Any] | None = None,
    ) -> list[float]:
        def change(config: dict[str, Any]) -> None:
            config["plugins"] = ["document_data", "document_rest"]
            config["model"] = {
                "component_config_paths": {"head": "head.yaml"},
                "component_optims": {"head": optimizer or {"type": "my_optim"}},
            }
            config["data"] = {"datamodule": data, "batch_size": 8}
            config["train"].update(
                trainer=trainer or {"type": "my_trainer"}, loss=loss or {"type": "my_loss"}
            )
            for key in ("gradient_clip_val", "ema"):
                del config["train"][key]

        folder = train(tiny_experiment(change))
        assert (folder / "epoch_2/head.pt").exists()
        assert (folder / "epoch_2/head_opt.pt").exists()
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["error"] for line in lines]

    return run


@pytest.mark.parametrize("kind", ["open_data", "constructed_data", "declared_data"])
def test_parameters_reach_the_dataset_wherever_its_factory_takes_them(
    losses: Callable[..., list[float]], kind: str
) -> None:
    found = losses({"type": kind, "params": {"length": 16, "slope": 0}})
    assert len(found) == 2 * 2
    assert found[-1] < found[0]


def test_the_progress_line_shows_what_a_trainer_of_ones_own_returns(
    losses: Callable[..., list[float]], capsys: pytest.CaptureFixture[str]
) -> None:
    errors = losses({"type": "open_data", "params": {"length": 32, "slope": 0}})
    assert len(errors) == 2 * 4
    assert f"error={errors[-1]:.4f}" in capsys.readouterr().err


def test_a_dataset_factory_needs_no_parameters(losses: Callable[..., list[float]]) -> None:
    assert len(losses({"type": "open_data"})) == 2 * 4


@pytest.mark.parametrize("kind", ["constructed_data", "declared_data"])
def test_a_wrong_parameter_of_a_dataset_is_named(losses: Callable[..., list[float]], kind: str) -> None:
    with pytest.raises(ConfigError) as caught:
        losses({"type": kind, "params": {"lenght": 16, "slope": "steep"}})
    said = str(caught.value)
    # What a constructor does not name may be for `build`; a declared class names all. There the required key
    # is the misspelt one, which is one mistake.
    unknown = "data.datamodule.params.lenght: unknown key; did you mean 'length'?"
    assert (unknown in said) == (kind == "declared_data")
    assert ("data.datamodule.params.length: this key is required" in said) == (kind != "declared_data")
    assert "data.datamodule.params.slope: input should be a valid number" in said


def test_a_train_step_without_return_is_named(losses: Callable[..., list[float]]) -> None:
    with pytest.raises(TrainingFault, match="'my_forgetful_trainer' returned nothing; it must return a dict"):
        losses({"type": "open_data"}, {"type": "my_forgetful_trainer"})


def test_parameters_reach_trainer_loss_and_optimizer(
    losses: Callable[..., list[float]], tmp_path: Path
) -> None:
    (first, *_) = losses(
        {"type": "open_data"},
        {"type": "my_trainer_with_scale", "params": {"scale": 3.0}},
        {"type": "my_loss_with_reduction", "params": {"reduction": "sum"}},
        {"type": "my_optim_with_rate", "params": {"lr": "0"}},
    )
    (tmp_path / "run").rename(tmp_path / "scaled")
    (other, *_) = losses({"type": "open_data"})
    assert first == pytest.approx(3.0 * 8 * other)
