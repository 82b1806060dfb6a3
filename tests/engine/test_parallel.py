"""`train.parallel`: sharded components train like replicated ones, and either goes on where the other was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.run_folder import metrics, weights
from helpers.runs import launch
from helpers.tiny_experiment import fixed_schedule

from trainer import load_policy
from trainer.offline_trainer import train

Write = Callable[..., Path]
COMPONENTS = ("observation_encoder", "velocity_decoder")


def longer(config: dict[str, Any]) -> None:
    del config["data"]["batch_size"]
    config["data"]["global_batch_size"] = 16
    config["train"].update(epoch=5, save_every=1, non_finite="skip", accumulate_grad_batches=2)
    fixed_schedule(config)


def action(run: Path) -> np.ndarray:
    policy = load_policy(run, "cpu")
    policy.reset(3)
    return policy.act({"observation.state": np.linspace(-1, 1, 5, dtype=np.float32)})


@pytest.mark.slow
@pytest.mark.parametrize("clipping", ["component", "global"])
def test_sharded_components_train_like_replicated_ones(
    tiny_experiment: Write, tmp_path: Path, clipping: str
) -> None:
    """Two ranks, with an average, clipping, accumulation and guards: 55 steps, losses within 1e-5."""
    path = tiny_experiment(longer)
    runs = {name: tmp_path / name for name in ("ddp", "fsdp")}
    for parallel, run in runs.items():
        said = launch(path, run, 2, f"train.parallel={parallel}", f"train.gradient_clip_scope={clipping}")
        assert "in-place op" not in said  # torch warns of views that leave a sharded module
    lines = {name: metrics(run) for name, run in runs.items()}
    assert len(lines["fsdp"]) == 55
    for key in (k for k in lines["ddp"][0] if k == "total" or "grad_norm" in k):
        ours, theirs = ([line[key] for line in lines[name]] for name in ("fsdp", "ddp"))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, err_msg=key)
    for component in COMPONENTS:
        sharded, replicated = (weights(run / "epoch_5", component) for run in runs.values())
        assert sharded.keys() == replicated.keys()
        for key, value in sharded.items():
            torch.testing.assert_close(value, replicated[key], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(action(runs["fsdp"]), action(runs["ddp"]), rtol=1e-4)


@pytest.mark.slow
def test_a_run_goes_on_under_another_strategy(tiny_experiment: Write, tmp_path: Path) -> None:
    """Two sharded ranks, then one process, then two replicated ranks, then sharded again, with an average."""
    path = tiny_experiment(longer)
    whole = train(path, [f"train.save_dir={tmp_path / 'whole'}"])
    run = tmp_path / "moved"
    launch(path, run, 2, "train.parallel=fsdp", "train.epoch=1")
    launch(path, run, 1, "train.epoch=2")
    launch(path, run, 2, "train.parallel=ddp", "train.epoch=3")
    launch(path, run, 2, "train.parallel=fsdp", "train.epoch=5")
    ours, theirs = ([line["total"] for line in metrics(folder)] for folder in (run, whole))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    np.testing.assert_allclose(action(run), action(whole), rtol=1e-4)


@pytest.mark.slow
def test_a_sharded_run_resumes_exactly(tiny_experiment: Write, tmp_path: Path) -> None:
    path = tiny_experiment(longer)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    launch(path, whole, 2, "train.parallel=fsdp")
    launch(path, resumed, 2, "train.parallel=fsdp", "train.max_steps=15", "train.epoch=null")
    launch(path, resumed, 2, "train.parallel=fsdp")
    ours, theirs = ([line["total"] for line in metrics(folder)] for folder in (resumed, whole))
    assert ours == theirs
    for component in COMPONENTS:
        for key, value in weights(whole / "epoch_5", component).items():
            assert torch.equal(value, weights(resumed / "epoch_5", component)[key])


def test_one_process_shares_with_nobody_and_says_so(
    tiny_experiment: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny_experiment(), ["train.parallel=fsdp", "train.epoch=1"])
    assert "Warning: train.parallel: fsdp has no effect in one process." in capsys.readouterr().err


@pytest.mark.slow
def test_ranks_that_do_not_share_are_refused(tiny_experiment: Write, tmp_path: Path) -> None:
    path, run = tiny_experiment(), tmp_path / "run"
    with pytest.raises(AssertionError, match="with none, 2 ranks would train as many models that differ"):
        launch(path, run, 2, "train.parallel=none")
