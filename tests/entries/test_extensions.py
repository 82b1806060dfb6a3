"""The extension in `examples/extensions` trains as a user would have it train."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from trainer.deployment.robot_policy import load_policy
from trainer.offline_trainer import train

HEAD = {
    "schema_version": 1,
    "model": {
        "graph": {
            "inputs": ["condition"],
            "modules": {"head": {"_type_": "nn.Linear", "in_features": 16, "out_features": 8}},
            "nodes": [
                {"name": "flat", "call": "module:head", "args": ["$condition"]},
                {"name": "chunk", "call": "op:reshape", "args": ["$flat"], "kwargs": {"shape": [-1, 4, 2]}},
            ],
            "outputs": ["chunk"],
        }
    },
}


def regression(config: dict[str, Any]) -> None:
    config["plugins"] += ["examples.extensions.state_regression", "experiment_training.components.loss.l2"]
    config["train"]["trainer"] = {"type": "state_regression_trainer", "params": {"n_action_steps": 1}}
    config["train"]["loss"] = {"type": "l2_loss", "params": {"reduction": "mean"}}
    config["train"]["epoch"] = 30
    config["train"]["save_every"] = 30
    models, optimizers = (config["model"][k] for k in ("component_config_paths", "component_optims"))
    for section in (models, optimizers):
        section["action_head"] = section.pop("velocity_decoder")
    models["action_head"] = "models/action_head.yaml"
    for optimizer in optimizers.values():
        optimizer["params"]["peak_lr"] = 1e-2


def test_it_learns_the_linear_relation_of_the_small_dataset(
    tiny_experiment: Callable[..., Path], tmp_path: Path
) -> None:
    path = tiny_experiment(regression)
    (tmp_path / "models/action_head.yaml").write_text(yaml.safe_dump(HEAD))
    run = train(path)
    losses = [json.loads(line)["total"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert np.mean(losses[-11:]) < 0.3 * np.mean(losses[:3])
    policy = load_policy(run, device="cpu")
    assert policy.act({"observation.state": np.zeros(5, np.float32)}).shape == (2,)


def test_the_reduction_of_the_l2_loss_arrives() -> None:
    import torch

    from experiment_training.components.loss.l2 import L2LossFactory

    prediction, target = torch.arange(6.0), torch.zeros(6)
    assert L2LossFactory().build()(prediction, target).item() == pytest.approx(55.0)
    assert L2LossFactory("mean").build()(prediction, target).item() == pytest.approx(55.0 / 6)
