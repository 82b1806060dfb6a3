"""One rank and two ranks train the same run."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.runs import ROOT, environment, launch, training_command

PLUGIN = '''
import json, os
from experiment_training.components.trainer.imitation_learning.state_flow_matching import policy
from trainer.engine.policy_trainer import PolicyTrainer
from trainer.registry import TRAINER_REGISTRY
from trainer.runtime import environment_rank

@TRAINER_REGISTRY.register("noting_trainer")
class NotingTrainer(PolicyTrainer):
    """Notes which samples each rank sees."""

    policy_class = policy.StateFlowMatchingPolicy

    def train_step(self, data, context):
        name = f"samples_{os.environ['NOTE']}_{environment_rank()}.jsonl"
        with open(os.path.join(os.path.dirname(__file__), name), "a") as file:
            file.write(json.dumps(data["index"].tolist()) + "\\n")
        return super().train_step(data, context)
'''


def two_ranks(path: Path) -> subprocess.CompletedProcess[str]:
    """Train with two ranks, whatever comes of it."""
    command = training_command(path, 2)
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120)


def run(path: Path, ranks: int, batch_size: int) -> Path:
    folder = path.parent / f"run_{ranks}"
    launch(path, folder, ranks, f"data.batch_size={batch_size}")
    return folder


def test_two_ranks_draw_the_samples_of_one_and_their_losses_agree(
    tiny_experiment: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "noting.py").write_text(PLUGIN)

    def change(config: dict[str, Any]) -> None:
        config["plugins"].append("noting")
        config["train"]["trainer"]["type"] = "noting_trainer"
        config["train"]["epoch"] = 5
        config["train"]["save_every"] = 5

    path = tiny_experiment(change)
    one, two = run(path, 1, 16), run(path, 2, 8)

    def samples(name: str) -> list[list[int]]:
        return [json.loads(line) for line in (tmp_path / f"samples_{name}.jsonl").read_text().splitlines()]

    halves = zip(samples("2_0"), samples("2_1"), strict=True)
    assert samples("1_0") == [first + second for first, second in halves]

    def losses(folder: Path) -> list[float]:
        return [json.loads(line)["total"] for line in (folder / "metrics.jsonl").read_text().splitlines()]

    assert len(losses(one)) == 55
    np.testing.assert_allclose(losses(one), losses(two), rtol=1e-5)
    for name in ("observation_encoder", "velocity_decoder"):
        a, b = (torch.load(f / "epoch_5" / f"{name}.pt", weights_only=True) for f in (one, two))
        assert list(a) == list(b), "prefixes of DistributedDataParallel are removed"


def test_a_mistake_is_said_once_by_all_ranks_together(tiny_experiment: Callable[..., Path]) -> None:
    path = tiny_experiment(lambda c: c["train"].update(epochs=3))
    done = two_ranks(path)
    assert done.returncode != 0
    assert done.stderr.count("did you mean 'epoch'?") == 1


FAILING = '''
from experiment_training.components.trainer.imitation_learning.state_flow_matching import policy
from trainer.engine.policy_trainer import PolicyTrainer
from trainer.registry import TRAINER_REGISTRY
from trainer.runtime import environment_rank

@TRAINER_REGISTRY.register("failing_trainer")
class FailingTrainer(PolicyTrainer):
    """Fails on rank 1 only."""

    policy_class = policy.StateFlowMatchingPolicy

    def train_step(self, data, context):
        if environment_rank() == 1 and context.step == 3:
            raise RuntimeError("the gripper fell off")
        return super().train_step(data, context)
'''


@pytest.mark.slow
def test_a_rank_that_fails_ends_the_others_and_says_why(
    tiny_experiment: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "failing.py").write_text(FAILING)

    def change(config: dict[str, Any]) -> None:
        config["plugins"].append("failing")
        config["train"]["trainer"]["type"] = "failing_trainer"

    done = two_ranks(tiny_experiment(change))
    assert done.returncode != 0
    assert re.search(r"Error: Rank 1 \(.*\) failed: RuntimeError: the gripper fell off", done.stderr)
    assert done.stderr.count("[rank1]: RuntimeError: the gripper fell off") == 1


ODD_METRICS = '''
from experiment_training.components.trainer.imitation_learning.state_flow_matching import policy
from trainer.engine.policy_trainer import PolicyTrainer
from trainer.registry import TRAINER_REGISTRY
from trainer.runtime import environment_rank

@TRAINER_REGISTRY.register("odd_trainer")
class OddTrainer(PolicyTrainer):
    """One rank has something more to tell."""

    policy_class = policy.StateFlowMatchingPolicy

    def train_step(self, data, context):
        metrics = super().train_step(data, context)
        if environment_rank() == 1 and context.step == 2:
            metrics["surprise"] = metrics["total"] * 1000
        return metrics
'''


@pytest.mark.slow
def test_metrics_that_not_all_ranks_have_are_refused(
    tiny_experiment: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "odd.py").write_text(ODD_METRICS)

    def change(config: dict[str, Any]) -> None:
        config["plugins"].append("odd")
        config["train"]["trainer"]["type"] = "odd_trainer"

    done = two_ranks(tiny_experiment(change))
    assert done.returncode != 0
    assert "metric 'surprise' of step 2 came from rank 1 and not from all ranks" in done.stderr


@pytest.mark.slow
def test_validation_is_the_same_for_any_number_of_ranks(tiny_experiment: Callable[..., Path]) -> None:
    def change(config: dict[str, Any]) -> None:
        config["data"]["validation"] = {"episodes": [1, 4]}
        config["train"]["metrics"] = [{"type": "action_error"}]
        config["train"]["trainer"]["params"]["train_on_padding"] = True

    path = tiny_experiment(change)
    one, two = run(path, 1, 16), run(path, 2, 8)
    a, b = (
        [json.loads(line) for line in (folder / "validations.jsonl").read_text().splitlines()]
        for folder in (one, two)
    )
    assert [line["step"] for line in a] == [line["step"] for line in b] == [7, 14]
    for name in ("validation/total", "validation/action_error"):
        np.testing.assert_allclose([line[name] for line in a], [line[name] for line in b], rtol=1e-5)
