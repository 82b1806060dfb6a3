"""Several batches, one update: parts are ranks in time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers.run_folder import metrics, weights
from helpers.runs import launch

from trainer.config.errors import ConfigError
from trainer.offline_trainer import train

Write = Callable[..., Path]


def without_padding(config: dict[str, Any]) -> None:
    """Let every step count alike, so that a mean of means is the mean."""
    config["train"]["trainer"]["params"]["train_on_padding"] = True
    config["train"]["epoch"] = 3


def let_the_encoder_draw(path: Path) -> None:
    """Add noise to what the encoder gives, drawn by its graph and not by the policy."""
    file = path.parent / "models/observation_encoder.yaml"
    model = yaml.safe_load(file.read_text())
    graph = model["model"]["graph"]
    graph["nodes"] += [
        {"name": "drawn", "call": "op:randn_like", "args": ["$condition"]},
        {"name": "noisy", "call": "op:add", "args": ["$condition", "$drawn"]},
    ]
    graph["outputs"] = ["noisy"]
    file.write_text(yaml.safe_dump(model, sort_keys=False))


@pytest.mark.parametrize("noisy", [False, True])
def test_two_batches_of_eight_are_one_of_sixteen(tiny_experiment: Write, tmp_path: Path, noisy: bool) -> None:
    path = tiny_experiment(without_padding)
    if noisy:
        let_the_encoder_draw(path)
    one = train(path, [f"train.save_dir={tmp_path / 'one'}"])
    parts = ["data.batch_size=8", "train.accumulate_grad_batches=2"]
    two = train(path, [f"train.save_dir={tmp_path / 'two'}", *parts])
    assert len(metrics(two)) == len(metrics(one)) == 33
    for name in ("total", "velocity_decoder grad_norm"):
        a, b = ([line[name] for line in metrics(run)] for run in (one, two))
        np.testing.assert_allclose(a, b, rtol=1e-4)
    for key, value in weights(one / "epoch_3").items():
        torch.testing.assert_close(weights(two / "epoch_3")[key], value, rtol=1e-3, atol=1e-5)


COUNTING = '''
import json, os
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from experiment_training.components.trainer.imitation_learning.state_flow_matching import policy
from trainer.engine.policy_trainer import PolicyTrainer
from trainer.registry import TRAINER_REGISTRY
from trainer.runtime import environment_rank

@TRAINER_REGISTRY.register("counting_trainer")
class CountingTrainer(PolicyTrainer):
    """Counts how often gradients travel in each part."""

    policy_class = policy.StateFlowMatchingPolicy

    def __init__(self, policy, update):
        super().__init__(policy, update)
        self.sent = 0
        for module in update.components.called.values():
            module.register_comm_hook(None, self.send)

    def send(self, state, bucket):
        self.sent += 1
        work = dist.all_reduce(bucket.buffer().div_(dist.get_world_size()), async_op=True)
        return work.get_future().then(lambda f: f.value()[0])

    def train_step(self, data, context):
        before = self.sent
        found = super().train_step(data, context)
        if environment_rank() == 0:
            with open(os.path.join(os.path.dirname(__file__), "sent.jsonl"), "a") as file:
                file.write(json.dumps([context.micro_batch, self.sent - before]) + "\\n")
        return found
'''


def test_among_ranks_gradients_travel_with_the_last_part_only(tiny_experiment: Write, tmp_path: Path) -> None:
    (tmp_path / "counting.py").write_text(COUNTING)

    def change(config: dict[str, Any]) -> None:
        without_padding(config)
        config["plugins"].append("counting")
        config["train"]["trainer"]["type"] = "counting_trainer"

    path = tiny_experiment(change)
    one = train(tiny_experiment(without_padding, "alone"), [f"train.save_dir={tmp_path / 'one'}"])
    launch(path, tmp_path / "two", 2, "data.batch_size=4", "train.accumulate_grad_batches=2")
    sent = [json.loads(line) for line in (tmp_path / "sent.jsonl").read_text().splitlines()]
    assert len(sent) == 66
    assert all(count == 0 for part, count in sent if part == 0)
    assert all(count >= 2 for part, count in sent if part == 1)
    a, b = ([line["total"] for line in metrics(run)] for run in (one, tmp_path / "two"))
    np.testing.assert_allclose(a, b, rtol=1e-4)


OWN = """
from trainer.registry import TRAINER_REGISTRY

@TRAINER_REGISTRY.register("own_trainer")
class OwnTrainer:
    def __init__(self, models, optimizers, loss, device):
        self.models, self.optimizers = models, optimizers

    def train_step(self, data, iterations):
        return {"total": 0.0}
"""


def test_a_trainer_that_cannot_accumulate_says_so(tiny_experiment: Write, tmp_path: Path) -> None:
    (tmp_path / "own_step.py").write_text(OWN)

    def change(config: dict[str, Any]) -> None:
        config["plugins"].append("own_step")
        config["train"]["trainer"] = {"type": "own_trainer"}
        config["train"].update(accumulate_grad_batches=2, ema={"enabled": False})
        del config["train"]["gradient_clip_val"]

    with pytest.raises(ConfigError, match=r"experiment\.yaml:\d+:\d+: .*takes no `context`"):
        train(tiny_experiment(change))


def test_too_few_samples_for_all_parts(tiny_experiment: Write) -> None:
    with pytest.raises(ConfigError, match="180 samples, fewer than 12 times a batch of 16 needs"):
        train(tiny_experiment(), ["train.accumulate_grad_batches=12"])
