"""Settings of the loop do what they say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.run_folder import metrics, weights
from helpers.tiny_experiment import STEPS_PER_EPOCH

from trainer.checkpoint.folder import read_manifest
from trainer.config.errors import ConfigError
from trainer.offline_trainer import train
from trainer.utils.errors import TrainingFault

Write = Callable[..., Path]


def test_max_steps_ends_a_run_within_an_epoch(tiny_experiment: Write) -> None:
    run = train(tiny_experiment(lambda c: c["train"].update(epoch=None, max_steps=15)))
    assert [line["step"] for line in metrics(run)] == list(range(15))
    assert (run / "latest").read_text() == "step_15\n"
    assert read_manifest(run / "step_15")["iteration"] == 15
    facts = json.loads((run / "run.json").read_text())
    assert (facts["total_steps"], facts["epochs"]) == (15, 2)


def test_the_earlier_end_counts_and_schedules_know_it(tiny_experiment: Write) -> None:
    run = train(tiny_experiment(), ["train.max_steps=100"])
    assert len(metrics(run)) == 2 * STEPS_PER_EPOCH
    rates = [line["velocity_decoder lr"] for line in metrics(run)]
    assert rates[1] == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(0.0)


def test_a_run_without_an_end_is_refused(tiny_experiment: Write) -> None:
    with pytest.raises(ConfigError, match="how long to train is not said"):
        train(tiny_experiment(lambda c: c["train"].pop("epoch")))


def test_the_common_optimizer_is_that_of_components_without_their_own(tiny_experiment: Write) -> None:
    def change(config: dict[str, Any]) -> None:
        own = config["model"]["component_optims"].pop("velocity_decoder")
        config["train"]["optimizer"] = own

    plain, common = train(tiny_experiment()), None
    common = train(tiny_experiment(change, "common"), [f"train.save_dir={plain.parent / 'common'}"])
    for key, value in weights(plain / "epoch_2").items():
        assert torch.equal(weights(common / "epoch_2")[key], value)


def test_one_norm_over_all_components(tiny_experiment: Write, tmp_path: Path) -> None:
    """Of the same first step, the global norm is the root of the components' squares."""
    each = train(tiny_experiment(), [f"train.save_dir={tmp_path / 'each'}"])
    settings = ["train.gradient_clip_scope=global", "train.gradient_clip_val=0.01"]
    together = train(tiny_experiment(), [f"train.save_dir={tmp_path / 'together'}", *settings])
    norms = [metrics(each)[0][f"{name} grad_norm"] for name in ("observation_encoder", "velocity_decoder")]
    assert metrics(together)[0]["grad_norm"] == pytest.approx(np.hypot(*norms), rel=1e-5)


def test_a_norm_for_some_components(tiny_experiment: Write) -> None:
    def change(config: dict[str, Any]) -> None:
        config["train"]["gradient_clip_val"] = {"velocity_decoder": 0.5}

    line = metrics(train(tiny_experiment(change)))[0]
    assert "velocity_decoder grad_norm" in line
    assert "observation_encoder grad_norm" not in line


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gradient_clip_val": {"decoder": 1.0}}, r"gradient_clip_val\.decoder.*no component 'decoder'"),
        ({"gradient_clip_val": -1.0}, "gradient_clip_val must be greater than 0"),
        ({"gradient_clip_val": None, "gradient_clip_scope": "global"}, "gradient_clip_val is not set"),
        ({"non_finite": "lower"}, "only precision: fp16 scales the loss"),
        ({"metrics": [{"type": "action_error"}]}, r"train\.metrics.*data\.validation, which is not there"),
        ({"metrics": [{"type": "action_eror"}]}, r"train\.metrics\[0\]\.type.*did you mean 'action_error'"),
        (
            {"callbacks": [{"type": "early_stopping", "params": {"patience": 0}}]},
            r"train\.callbacks\[0\]\.params.*patience must be at least 1",
        ),
        ({"loggers": [{"type": "tensorbord"}]}, r"train\.loggers\[0\]\.type.*did you mean 'tensorboard'"),
        ({"compile": {"enabled": True, "backend": "inducto"}}, "did you mean 'inductor'"),
        ({"compile": {"enabled": True, "mode": "fastest"}}, "'fastest' is no mode; there are default"),
        (
            {"callbacks": [{"type": "early_stopping"}]},
            r"callbacks\[0\].*data\.validation, which is not there",
        ),
        (
            {"checkpoint": {"best": {"metric": "success_rate", "mode": "max"}}},
            r"'success_rate' is measured by train\.evaluation, which is not there",
        ),
        ({"save_every": 50, "checkpoint": {"save_last": False}}, "nothing would ever be saved"),
        (
            {"checkpoint": {"best": {"metric": "validation/total", "mode": "min"}}},
            r"'validation/total' is measured on data\.validation, which is not there",
        ),
    ],
)
def test_what_would_have_no_effect_or_is_not_there(
    tiny_experiment: Write, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(tiny_experiment(lambda c: c["train"].update(settings)))


def test_compiled_components_train_the_same_run(tiny_experiment: Write, tmp_path: Path) -> None:
    plain = train(tiny_experiment(), [f"train.save_dir={tmp_path / 'plain'}"])
    settings = ["train.compile.enabled=true", "train.compile.backend=aot_eager"]
    compiled = train(tiny_experiment(), [f"train.save_dir={tmp_path / 'compiled'}", *settings])
    a, b = ([line["total"] for line in metrics(run)] for run in (plain, compiled))
    np.testing.assert_allclose(a, b, rtol=1e-4)
    assert list(weights(plain / "epoch_2")) == list(weights(compiled / "epoch_2"))


UNUSED = """
import torch
from experiment_training.components.trainer.imitation_learning.state_flow_matching import policy
from trainer.engine.policy_trainer import PolicyTrainer
from trainer.registry import TRAINER_REGISTRY

class BlindPolicy(policy.StateFlowMatchingPolicy):
    def condition(self, batch):
        return super().condition(batch).detach()

@TRAINER_REGISTRY.register("blind_trainer")
class BlindTrainer(PolicyTrainer):
    policy_class = BlindPolicy
"""


def test_parameters_without_gradients_are_named(
    tiny_experiment: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "blind.py").write_text(UNUSED)

    def change(config: dict[str, Any]) -> None:
        config["plugins"].append("blind")
        config["train"]["trainer"]["type"] = "blind_trainer"

    train(tiny_experiment(change))
    said = capsys.readouterr().err
    assert "gave no gradient to some parameters (observation_encoder: graph_modules.embedding" in said


def test_among_ranks_they_must_be_allowed_for(tiny_experiment: Write) -> None:
    """The check itself, on a component that has two parameters and uses one."""
    from types import SimpleNamespace

    from torch import nn

    from trainer.engine.faults import check_gradients_came

    module = nn.Linear(2, 1)
    module.weight.grad = torch.zeros(1, 2)

    def experiment(find_unused: bool, distributed: bool) -> Any:
        return SimpleNamespace(
            components={"head": SimpleNamespace(module=module)},
            optimizers={"head": None},
            config=SimpleNamespace(model=SimpleNamespace(find_unused_parameters=find_unused)),
            runtime=SimpleNamespace(distributed=distributed, is_main=True),
        )

    with pytest.raises(TrainingFault, match=r"\(head: bias\); set model\.find_unused_parameters: true"):
        check_gradients_came(experiment(False, True))
    check_gradients_came(experiment(True, True))


def test_loader_settings_that_do_nothing_here_are_named(tiny_experiment: Write) -> None:
    from trainer.config.loader import load_located
    from trainer.engine.build_data import build_data
    from trainer.engine.check import check

    idle = {"persistent_workers": True, "prefetch_factor": 2, "frame_memory": 64}
    path = tiny_experiment(lambda c: c["data"].update(idle))
    no_frames = "data.frame_memory has no effect, because there are no camera frames to decode."
    checked = check(load_located(path))
    assert checked.warnings == [
        "data.persistent_workers has no effect, because data.num_workers is 0.",
        "data.prefetch_factor has no effect, because data.num_workers is 0.",
    ]
    assert build_data(checked).warnings == [no_frames]
    assert check(load_located(path, ["data.num_workers=1"])).warnings == []


def test_speed_is_told_also_where_epochs_are_shorter_than_logging_windows(tiny_experiment: Write) -> None:
    run = train(tiny_experiment(), ["data.batch_size=60", "train.epoch=4", "train.log_every_n_steps=5"])
    told = [line["step"] for line in metrics(run) if "samples_per_s" in line]
    assert told == [4, 9], "three steps an epoch, five a window"
