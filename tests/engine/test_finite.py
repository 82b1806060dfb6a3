"""Numbers that are not finite: the run stops, or leaves the update out, and a checkpoint never holds them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.run_folder import metrics, weights
from torch import nn

from trainer.checkpoint.folder import read_manifest
from trainer.engine.finite import FiniteUpdates, LossWatch, check_weights
from trainer.engine.policy_trainer import PolicyTrainer
from trainer.engine.update import Update, UpdateSettings
from trainer.modeling.component import Component, Components
from trainer.offline_trainer import train
from trainer.runtime import Runtime
from trainer.templates import Context, Objective
from trainer.utils.errors import NonFiniteError
from trainer.utils.random import RowRandom

Write = Callable[..., Path]

PLUGIN = '''
import torch
from experiment_training.components.trainer.imitation_learning.state_flow_matching import policy
from trainer.engine.policy_trainer import PolicyTrainer
from trainer.registry import TRAINER_REGISTRY

@TRAINER_REGISTRY.register("spiky_trainer")
class SpikyTrainer(PolicyTrainer):
    """Its loss is NaN at step 14."""

    policy_class = policy.StateFlowMatchingPolicy

    def train_step(self, data, context):
        if context.step == 14:
            data = {**data, "action": data["action"] * float("nan")}
        return super().train_step(data, context)
'''


@pytest.fixture
def spiky(tiny_experiment: Write, tmp_path: Path) -> Path:
    (tmp_path / "spiky.py").write_text(PLUGIN)

    def change(config: dict[str, Any]) -> None:
        config["plugins"].append("spiky")
        config["train"]["trainer"]["type"] = "spiky_trainer"

    return tiny_experiment(change)


def test_a_run_stops_with_its_last_checkpoint_as_it_was(spiky: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"the loss is nan at step 14 .*train\.non_finite: skip"):
        train(spiky)
    run = spiky.parent / "run"
    assert (run / "latest").read_text() == "epoch_1\n"
    read_manifest(run / "epoch_1")
    assert not (run / "epoch_2").exists()
    assert np.isnan(metrics(run)[14]["total"])


def test_an_update_is_left_out(spiky: Path) -> None:
    run = train(spiky, ["train.non_finite=skip"])
    skipped = [line["skipped"] for line in metrics(run)]
    assert skipped == [0.0] * 14 + [1.0] + [0.0] * 7
    assert np.isfinite([line["total"] for line in metrics(run)[15:]]).all()
    assert all(value.isfinite().all() for value in weights(run / "epoch_2").values())


def test_looking_changes_nothing_of_a_sound_run(tiny_experiment: Write, tmp_path: Path) -> None:
    plain = train(tiny_experiment(), [f"train.save_dir={tmp_path / 'plain'}"])
    looked = train(tiny_experiment(), [f"train.save_dir={tmp_path / 'looked'}", "train.non_finite=skip"])
    for key, value in weights(plain / "epoch_2").items():
        assert torch.equal(weights(looked / "epoch_2")[key], value)


def test_half_precision_scales_the_loss_and_trains(tiny_experiment: Write) -> None:
    run = train(tiny_experiment(lambda c: c.update(precision="fp16")), ["train.epoch=4"])
    lines = metrics(run)
    assert lines[-1]["skipped"] == 0.0
    first, last = (np.mean([line["total"] for line in part]) for part in (lines[:5], lines[-5:]))
    assert last < first
    state = torch.load(run / "epoch_4/training_state.pt", weights_only=True)["update"]["finite"]
    skipped = sum(line["skipped"] for line in lines)
    assert state["scale"].item() == 2.0 ** (16 - skipped)


class Line(Objective):
    """A line; its loss is its value at x."""

    def __init__(self, components: nn.ModuleDict, loss: None = None) -> None:
        super().__init__()
        self.components = components

    def loss(self, batch: dict[str, torch.Tensor], context: Context) -> dict[str, torch.Tensor]:
        return {"total": self.components["line"](batch["x"]).mean()}


@pytest.mark.parametrize("fused", [False, True])
def test_fused_and_other_optimizers_leave_the_same_updates_out(fused: bool) -> None:
    """Two components: inf in the gradients of one keeps the other from its update, too."""
    models = nn.ModuleDict({"line": nn.Linear(2, 1), "spare": nn.Linear(1, 1)})
    start = {k: v.clone() for k, v in models.state_dict().items()}
    optimizers = {n: torch.optim.AdamW(m.parameters(), lr=0.1, fused=fused) for n, m in models.items()}
    cpu = torch.device("cpu")
    components = Components(Component(name, module, Runtime(cpu)) for name, module in models.items())
    settings = UpdateSettings(non_finite="skip", gradient_clip_val=1.0)
    trainer = PolicyTrainer(Line(models), Update(components, optimizers, settings, cpu))
    bad = trainer.train_step({"x": torch.tensor([[1.0, float("inf")]])}, Context(RowRandom([0])))
    assert bad["skipped"] == 1
    assert all(torch.equal(v, start[k]) for k, v in models.state_dict().items())
    good = trainer.train_step({"x": torch.tensor([[1.0, 2.0]])}, Context(RowRandom([0]), step=1))
    assert good["skipped"] == 0
    assert not torch.equal(models["line"].weight, start["line.weight"])
    reference = nn.Linear(2, 1)
    reference.load_state_dict({"weight": start["line.weight"], "bias": start["line.bias"]})
    plain = torch.optim.AdamW(reference.parameters(), lr=0.1)
    reference(torch.tensor([[1.0, 2.0]])).mean().backward()
    nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
    plain.step()
    torch.testing.assert_close(models["line"].weight, reference.weight)


def test_the_scale_halves_with_each_skipped_update_and_grows_again() -> None:
    finite = FiniteUpdates(torch.device("cpu"), scaled=True)
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    weight.grad = torch.full((2,), float("inf"))
    finite.step([optimizer], finite.verdict([weight.grad]))
    assert finite.scale == 2.0**15
    assert torch.equal(weight.detach(), torch.ones(2))
    for _ in range(2000):
        weight.grad = torch.full((2,), 2.0**15)
        finite.step([], finite.verdict([weight.grad]))
    assert finite.scale == 2.0**16
    weight.grad = finite.scaled_loss(torch.tensor(1.0)).repeat(2)
    finite.verdict([weight.grad])
    assert torch.equal(weight.grad, torch.ones(2))


def test_nothing_but_skipped_updates_ends_the_run() -> None:
    watch = LossWatch(skipping=True)
    watch.look({"step": s, "total": float("nan"), "skipped": 1.0} for s in range(150))
    watch.look([{"step": 150, "total": 1.0, "skipped": 0.0}])
    watch.look({"step": s, "total": float("nan"), "skipped": 1.0} for s in range(151, 350))
    with pytest.raises(NonFiniteError, match="the last 200 updates up to step 350 were skipped"):
        watch.look([{"step": 350, "total": float("nan"), "skipped": 1.0}])


def looked_at(models: dict[str, nn.Module], averages: dict[str, Any] | None = None) -> None:
    buffers = {name: {key for key, _ in module.named_buffers()} for name, module in models.items()}
    check_weights({n: m.state_dict() for n, m in models.items()}, averages or {}, buffers, 7)


def test_broken_weights_are_not_saved() -> None:
    models: dict[str, nn.Module] = {"good": nn.Linear(2, 2), "bad": nn.Linear(2, 2)}
    looked_at(models)
    with torch.no_grad():
        models["bad"].weight[0, 0] = float("inf")
    with pytest.raises(NonFiniteError, match="after 7 updates the weights of bad are not finite"):
        looked_at(models)
    average = {"good": {"weight": torch.tensor([float("nan")])}}
    with pytest.raises(NonFiniteError, match="the averaged weights of good and the weights of bad"):
        looked_at(models, average)


def test_batch_norms_that_saw_nan_are_not_saved_and_masks_are() -> None:
    norm = nn.BatchNorm1d(2)
    norm(torch.tensor([[1.0, 2.0], [float("nan"), 3.0]]))
    with pytest.raises(NonFiniteError, match="the statistics of norm are not finite"):
        looked_at({"norm": norm})
    masked = nn.Linear(2, 2)
    masked.register_buffer("mask", torch.tensor([0.0, -float("inf")]))
    looked_at({"masked": masked})


def test_a_loss_that_only_a_save_brings_to_the_host_is_looked_at(
    tiny_experiment: Write, tmp_path: Path
) -> None:
    """One that is NaN once, and finite when the window of the metrics ends."""
    (tmp_path / "odd.py").write_text(
        "import torch\n"
        "from trainer.registry import CALLBACK_REGISTRY\n"
        "from trainer.templates import Callback\n"
        "@CALLBACK_REGISTRY.register('odd')\n"
        "class Odd(Callback):\n"
        "    def after_step(self, experiment, metrics):\n"
        "        if experiment.progress.iteration == 7:\n"
        "            metrics['total'].fill_(float('nan'))\n"
        "            experiment.save()\n"
    )

    def change(config: dict[str, Any]) -> None:
        config["plugins"].append("odd")
        config["train"].update(callbacks=[{"type": "odd"}], log_every_n_steps=100)

    with pytest.raises(NonFiniteError, match="the loss is nan at step 6"):
        train(tiny_experiment(change))


def test_the_best_moment_is_not_one_with_broken_weights(tiny_experiment: Write, tmp_path: Path) -> None:
    (tmp_path / "breaking.py").write_text(
        "import torch\n"
        "from trainer.registry import CALLBACK_REGISTRY\n"
        "from trainer.templates import Callback\n"
        "@CALLBACK_REGISTRY.register('breaking')\n"
        "class Breaking(Callback):\n"
        "    def after_step(self, experiment, metrics):\n"
        "        if experiment.progress.iteration == 22:\n"
        "            with torch.no_grad():\n"
        "                next(experiment.models['velocity_decoder'].parameters()).fill_(float('nan'))\n"
        "    def after_epoch(self, experiment):\n"
        "        return {'luck': float(experiment.progress.epoch)}\n"
    )

    def change(config: dict[str, Any]) -> None:
        config["plugins"].append("breaking")
        config["train"]["callbacks"] = [{"type": "breaking"}]
        config["train"]["checkpoint"] = {"best": {"metric": "luck", "mode": "max"}}

    with pytest.raises(NonFiniteError, match="after 22 updates the weights of velocity_decoder"):
        train(tiny_experiment(change))
    run = tmp_path / "run"
    assert (run / "latest").read_text() == "epoch_1\n"
    assert (run / "best").read_text().startswith("epoch_1\n")
