"""Training a small experiment from its YAML: files, numbers, resuming, deploying."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.run_folder import assert_same, metrics, weights
from helpers.tiny_experiment import STEPS_PER_EPOCH, fixed_schedule

from trainer.checkpoint.folder import read_manifest
from trainer.data.stats_file import load_stats
from trainer.deployment.robot_policy import load_policy
from trainer.offline_trainer import train
from trainer.utils.random import RowRandom

Write = Callable[..., Path]


def test_a_run_leaves_what_the_document_promises(tiny_experiment: Write) -> None:
    run = train(tiny_experiment())
    for epoch in (1, 2):
        folder = run / f"epoch_{epoch}"
        assert read_manifest(folder)["iteration"] == epoch * STEPS_PER_EPOCH
        assert all(k.startswith("graph_modules.decoder.") for k in weights(folder))
        optimizer = torch.load(folder / "velocity_decoder_opt.pt", weights_only=True)
        assert set(optimizer) >= {"state", "param_groups", "scheduler"}
    assert (run / "latest").read_text() == "epoch_2\n"
    stats = load_stats(run / "dataset_stats.pkl")
    assert stats["observation.state"]["mean"].shape == (5,)
    lines = metrics(run)
    assert [line["step"] for line in lines] == list(range(2 * STEPS_PER_EPOCH))
    assert {"total", "epoch", "velocity_decoder grad_norm", "observation_encoder lr"} <= set(lines[0])
    first, last = (np.mean([line["total"] for line in part]) for part in (lines[:5], lines[-5:]))
    assert last < first
    assert sorted(p.name for p in run.glob("*.incomplete")) == []


OPEN_ENDED = """
from trainer.engine.policy_trainer import PolicyTrainer
from trainer.registry import TRAINER_REGISTRY
from experiment_training.components.trainer.imitation_learning.state_flow_matching.policy import (
    StateFlowMatchingPolicy,
)

@TRAINER_REGISTRY.register("open_ended_trainer")
class OpenEndedTrainer(PolicyTrainer):
    policy_class = StateFlowMatchingPolicy

    def __init__(self, policy, update, **kwargs):
        super().__init__(policy, update)
        self.scale = kwargs["scale"]

    def train_step(self, data, context):
        return {**super().train_step(data, context), "scale": self.scale}
"""


def test_a_trainer_that_takes_any_parameter_gets_those_of_the_configuration(
    tiny_experiment: Write, tmp_path: Path
) -> None:
    (tmp_path / "open_ended.py").write_text(OPEN_ENDED)

    def change(config: dict[str, Any]) -> None:
        config["plugins"].append("open_ended")
        config["train"]["trainer"]["type"] = "open_ended_trainer"
        config["train"]["trainer"]["params"]["scale"] = 0.25

    run = train(tiny_experiment(change), ["train.epoch=1"])
    assert {line["scale"] for line in metrics(run)} == {0.25}


def test_losses_are_those_of_a_loop_written_by_hand(tiny_experiment: Write) -> None:
    """The same batches, noise and updates, without the framework's loop, step, clipping and averaging."""
    path = tiny_experiment()
    run = train(path)

    import pyarrow.parquet as pq
    from model_constructor import build_model

    from experiment_training.components.optimizer.adamw_cosine_decay import warmup_cosine
    from trainer.utils.random import SampleRandom
    from trainer.utils.seed import set_global_seed
    from trainer.utils.shuffle import epoch_order

    config = json.loads((run / "dataset.json").read_text())
    table = pq.read_table(sorted(Path(config["root"]).glob("data/**/*.parquet")))
    state = np.stack(table["observation.state"].to_numpy())
    action = np.stack(table["action"].to_numpy())
    last = (np.arange(len(state)) // 30) * 30 + 29
    first = last - 29
    z = {
        "state": (state - state.mean(0)) / (state.std(0) + 1e-8),
        "action": (action - action.mean(0)) / (action.std(0) + 1e-8),
    }
    set_global_seed(7)
    encoder = build_model(path.parent / "models/observation_encoder.yaml")
    decoder = build_model(path.parent / "models/velocity_decoder.yaml")
    groups = [list(encoder.parameters()), list(decoder.parameters())]
    optimizers = [torch.optim.AdamW(g, lr=1e-3, weight_decay=0.0) for g in groups]
    expected, average = [], {k: v.clone() for k, v in decoder.state_dict().items()}
    total = 2 * STEPS_PER_EPOCH
    for step in range(total):
        epoch, within = divmod(step, STEPS_PER_EPOCH)
        anchors = epoch_order(7, epoch, len(state))[within * 16 : (within + 1) * 16]
        past = np.maximum(anchors[:, None] + [-1, 0], first[anchors][:, None])
        ahead = anchors[:, None] + np.arange(4)
        valid = torch.from_numpy((ahead <= last[anchors][:, None]).astype(np.float32))
        observed = torch.from_numpy(z["state"][past]).float()
        wanted = torch.from_numpy(z["action"][np.minimum(ahead, last[anchors][:, None])]).float()
        random = SampleRandom(7, step)
        t = 1 - (1 - random.uniform((16,))) ** (2 / 3)
        noise = random.normal((16, 4, 2))
        x = noise + t[:, None, None] * (wanted - noise)
        v = decoder(time=t, noise=x, condition=encoder(state=observed))
        error = ((v - (wanted - noise)) ** 2).mean(-1)
        loss = ((error * valid).sum(1) / valid.sum(1)).mean()
        for group, optimizer in zip(groups, optimizers, strict=True):
            optimizer.param_groups[0]["lr"] = warmup_cosine(
                step, peak=1e-3, start=0, end=0, warmup=2, total=total
            )
            for p in group:
                p.grad = None
        loss.backward()
        for group, optimizer in zip(groups, optimizers, strict=True):
            torch.nn.utils.clip_grad_norm_(group, 1.0)
            optimizer.step()
        keep = min(0.9, (1 + step) / (10 + step))
        average = {k: keep * average[k] + (1 - keep) * v for k, v in decoder.state_dict().items()}
        expected.append(loss.item())
    np.testing.assert_allclose([line["total"] for line in metrics(run)], expected, rtol=2e-4)
    deployed = weights(run / "epoch_2")
    for key, value in average.items():
        torch.testing.assert_close(deployed[key], value, rtol=1e-3, atol=1e-5)


def test_a_resumed_run_is_the_run_that_was_never_stopped(tiny_experiment: Write, tmp_path: Path) -> None:
    def with_dropout(config: dict[str, Any]) -> None:
        fixed_schedule(config)
        decoder = tmp_path / "models/velocity_decoder.yaml"
        decoder.write_text(decoder.read_text().replace("dropout: 0.0", "dropout: 0.2"))

    path = tiny_experiment(with_dropout)
    whole = train(path, [f"train.save_dir={tmp_path / 'whole'}"])
    halves = [f"train.save_dir={tmp_path / 'halves'}"]
    train(path, [*halves, "train.epoch=1"])
    resumed = train(path, halves)
    for component in ("observation_encoder", "velocity_decoder"):
        for name in (f"{component}.pt", f"{component}_opt.pt"):
            a, b = (torch.load(r / "epoch_2" / name, weights_only=True) for r in (whole, resumed))
            assert_same(a, b)
    a, b = (torch.load(r / "epoch_2/training_state.pt", weights_only=True) for r in (whole, resumed))
    assert_same(a["models"], b["models"])
    assert_same(a["trainer"], b["trainer"])
    kept = [[(m["step"], m["total"]) for m in metrics(r)] for r in (whole, resumed)]
    assert kept[0] == kept[1]


def test_a_finished_run_is_left_as_it_is(tiny_experiment: Write) -> None:
    path = tiny_experiment()
    run = train(path)
    before = {p: p.stat().st_mtime_ns for p in run.glob("epoch_*/*")}
    train(path)
    assert {p: p.stat().st_mtime_ns for p in run.glob("epoch_*/*")} == before
    assert len(metrics(run)) == 2 * STEPS_PER_EPOCH


def test_frozen_components_keep_their_weights_and_are_saved(tiny_experiment: Write, tmp_path: Path) -> None:
    first = train(tiny_experiment())

    def frozen(config: dict[str, Any]) -> None:
        config["model"]["component_build_args"] = {"observation_encoder": {"freeze": True}}
        del config["model"]["component_optims"]["observation_encoder"]
        config["train"]["load_dir"] = str(first / "epoch_2")
        config["train"]["save_dir"] = str(tmp_path / "second")

    second = train(tiny_experiment(frozen, "second"))
    a, b = (weights(r / "epoch_2", "observation_encoder") for r in (first, second))
    assert_same(a, b)
    assert not (second / "epoch_2/observation_encoder_opt.pt").exists()
    moved = [not torch.equal(a, b) for a, b in zip(
        weights(first / "epoch_2").values(), weights(second / "epoch_2").values(), strict=True)]  # fmt: skip
    assert any(moved)


def test_a_policy_takes_raw_observations_and_gives_raw_actions(tiny_experiment: Write) -> None:
    run = train(tiny_experiment())
    policy = load_policy(run, device="cpu")
    rng = np.random.default_rng(1)
    frames = rng.normal(size=(5, 5)).astype(np.float32)
    policy.reset(seeds=3)
    actions = [policy.act({"observation.state": f}) for f in frames]

    stats = load_stats(run / "dataset_stats.pkl")
    scaled = (frames - stats["observation.state"]["mean"]) / (stats["observation.state"]["std"] + 1e-8)
    random = RowRandom([3])
    expected: list[np.ndarray] = []
    for step in (0, 2, 4):
        window = torch.from_numpy(scaled[[max(step - 1, 0), step]])[None].float()
        parts = policy.policy.components
        with torch.no_grad():
            condition = parts["observation_encoder"](state=window)
            x = random.normal((1, 4, 2))
            for k in range(10):
                x = (
                    x
                    + parts["velocity_decoder"](time=torch.tensor([k / 10]), noise=x, condition=condition)
                    / 10
                )
        chunk = x[0].numpy() * (stats["action"]["std"] + 1e-8) + stats["action"]["mean"]
        expected += [*chunk[:2]]
    np.testing.assert_allclose(np.stack(actions), np.stack(expected[:5]), rtol=1e-4, atol=1e-4)


def test_robots_in_lockstep_act_as_each_would_alone(tiny_experiment: Write) -> None:
    policy = load_policy(train(tiny_experiment()), device="cpu")
    frames = np.random.default_rng(2).normal(size=(6, 3, 5)).astype(np.float32)
    alone = []
    for robot in range(3):
        policy.reset(seeds=robot)
        alone.append([policy.act({"observation.state": f[robot]}) for f in frames])
    policy.reset(seeds=[0, 1, 2])
    together = [policy.act({"observation.state": f}) for f in frames[:3]]
    policy.keep([0, 2])
    together += [policy.act({"observation.state": f[[0, 2]]}) for f in frames[3:]]
    for step, actions in enumerate(together):
        rows = [0, 1, 2] if step < 3 else [0, 2]
        np.testing.assert_allclose(actions, [alone[r][step] for r in rows], rtol=1e-4, atol=1e-5)


def test_a_missing_observation_is_named(tiny_experiment: Write) -> None:
    policy = load_policy(train(tiny_experiment()), device="cpu")
    with pytest.raises(
        ValueError, match=r"needs observation\.state: 5 float32.*; it was given observation\.pixels"
    ):
        policy.act({"observation.pixels": np.zeros(3)})


def test_noise_on_observations_belongs_to_the_samples(tiny_experiment: Write, tmp_path: Path) -> None:
    """It changes the training, is the same when repeated, and is not there when the policy is used."""

    def noisy(config: dict[str, Any]) -> None:
        config["data"]["augmentation"] = {"observation_noise": 0.5}

    path = tiny_experiment(noisy)
    a, b = (train(path, [f"train.save_dir={tmp_path / name}"]) for name in ("a", "b"))
    plain = train(path, [f"train.save_dir={tmp_path / 'c'}", "data.augmentation=null"])
    losses = [[m["total"] for m in metrics(run)] for run in (a, b, plain)]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]
    first = [np.load(run / "first_batch.npz") for run in (a, plain)]
    difference = first[0]["observation.state"] - first[1]["observation.state"]
    assert difference.std() == pytest.approx(0.5, rel=0.4)
    np.testing.assert_array_equal(first[0]["action"], first[1]["action"])
