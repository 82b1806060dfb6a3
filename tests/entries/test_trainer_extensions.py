"""Trainers with phases, teachers and no actions, of `examples/extensions`, train as a user would have it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers.run_folder import metrics, weights
from helpers.runs import launch
from helpers.tiny_experiment import fixed_schedule

from trainer.checkpoint.folder import CheckpointError
from trainer.deployment.robot_policy import load_policy
from trainer.offline_trainer import train

Write = Callable[..., Path]
CONDITION, HORIZON, ACTION = 16, 4, 2


def graph(inputs: list[str], modules: dict[str, Any], *nodes: dict[str, Any]) -> dict[str, Any]:
    outputs = [nodes[-1]["name"]]
    inner = {"inputs": inputs, "modules": modules, "nodes": list(nodes), "outputs": outputs}
    return {"schema_version": 1, "model": {"graph": inner}}


def linear(width: int, out: int) -> dict[str, Any]:
    return {"_type_": "nn.Linear", "in_features": width, "out_features": out}


FLATTEN = {"name": "flat", "call": "op:flatten", "args": ["$chunk", 1]}
HEAD = graph(
    ["condition"],
    {"head": linear(CONDITION, HORIZON * ACTION)},
    {"name": "flat", "call": "module:head", "args": ["$condition"]},
    {"name": "chunk", "call": "op:reshape", "args": ["$flat"], "kwargs": {"shape": [-1, HORIZON, ACTION]}},
)
CRITIC = graph(
    ["chunk", "condition"],
    {"critic": {"_type_": "mlp", "dims": [HORIZON * ACTION + CONDITION, 16, 1]}},
    FLATTEN,
    {"name": "both", "call": "op:concat", "args": ["$flat", "$condition"], "kwargs": {"dim": -1}},
    {"name": "opinion", "call": "module:critic", "args": ["$both"]},
)
ACTION_ENCODER = graph(
    ["chunk"],
    {"encoder": linear(HORIZON * ACTION, CONDITION)},
    FLATTEN,
    {"name": "embedding", "call": "module:encoder", "args": ["$flat"]},
)


def extension(write: Write, tmp_path: Path, name: str, components: dict[str, Any], **params: Any) -> Path:
    """Return the tiny experiment with the trainer of an extension and its components."""

    def change(config: dict[str, Any]) -> None:
        config["plugins"].append(f"examples.extensions.{name}")
        config["train"]["trainer"] = {"type": f"{name}_trainer", "params": params}
        config["train"].update(epoch=4, save_every=1, gradient_clip_val=None)
        fixed_schedule(config)
        model = config["model"]
        optimizer = model["component_optims"]["observation_encoder"]
        for section, value in (("component_config_paths", "models/{}.yaml"), ("component_optims", optimizer)):
            del model[section]["velocity_decoder"]
            for key in components:
                model[section][key] = value.format(key) if isinstance(value, str) else value

    path = write(change)
    for key, text in components.items():
        (tmp_path / f"models/{key}.yaml").write_text(yaml.safe_dump(text))
    return path


def state(run: Path, name: str = "epoch_4") -> dict[str, Any]:
    found: dict[str, Any] = torch.load(run / name / "training_state.pt", weights_only=True)
    return found


def losses(run: Path, name: str = "total") -> list[float]:
    return [line[name] for line in metrics(run)]


def test_two_phases_train_their_own_components(tiny_experiment: Write, tmp_path: Path) -> None:
    parts = {"action_head": HEAD, "critic": CRITIC}
    path = extension(tiny_experiment, tmp_path, "adversarial", parts, n_action_steps=1, weight=0.05)
    run = train(path)
    error = losses(run, "error")
    assert np.mean(error[-5:]) < np.mean(error[:5])
    assert load_policy(run, "cpu").act({"observation.state": np.zeros(5, np.float32)}).shape == (ACTION,)


def smooth(*components: str) -> list[str]:
    """Return overrides with which a rounding error stays one: Adam divides by gradients that are near 0."""
    return [f"model.component_optims.{c}.params.eps=0.01" for c in ("observation_encoder", *components)]


@pytest.mark.slow
def test_two_phases_on_two_ranks_are_those_of_one(tiny_experiment: Write, tmp_path: Path) -> None:
    parts = {"action_head": HEAD, "critic": CRITIC}
    path = extension(tiny_experiment, tmp_path, "adversarial", parts, n_action_steps=1)
    same = smooth(*parts)
    single = train(path, [f"train.save_dir={tmp_path / 'one'}", *same])
    for parallel in ("ddp", "fsdp"):
        run = tmp_path / parallel
        launch(path, run, 2, f"train.parallel={parallel}", "data.batch_size=8", *same)
        for name in ("critic", "total"):
            np.testing.assert_allclose(losses(run, name), losses(single, name), rtol=1e-4)


def test_an_objective_trains_and_does_not_act(tiny_experiment: Write, tmp_path: Path) -> None:
    run = train(extension(tiny_experiment, tmp_path, "alignment", {"action_encoder": ACTION_ENCODER}))
    total = losses(run)
    assert np.mean(total[-5:]) < np.mean(total[:5])
    with pytest.raises(CheckpointError, match="trains Alignment, no policy"):
        load_policy(run, "cpu")


def test_a_teacher_and_a_buffer_are_saved_and_resumed(tiny_experiment: Write, tmp_path: Path) -> None:
    path = extension(
        tiny_experiment,
        tmp_path,
        "self_distillation",
        {"action_head": HEAD},
        teacher_decay=0.9,
        n_action_steps=1,
    )
    whole = train(path, [f"train.save_dir={tmp_path / 'whole'}"])
    resumed = tmp_path / "resumed"
    train(path, [f"train.save_dir={resumed}", "train.max_steps=17", "train.epoch=null"])
    train(path, [f"train.save_dir={resumed}"])
    assert losses(resumed) == losses(whole)
    ours, theirs = state(resumed), state(whole)
    teacher = ours["update"]["teachers"]["observation_encoder"]["weights"]
    for key, value in theirs["update"]["teachers"]["observation_encoder"]["weights"].items():
        assert torch.equal(teacher[key], value)
        assert not torch.equal(value, theirs["models"]["observation_encoder"][key])
    typical = [torch.load(run / "epoch_4/policy_state.pt")["typical"] for run in (resumed, whole)]
    assert typical[0] == typical[1] == load_policy(resumed, "cpu").policy.typical != 1.0


def test_a_teacher_follows_its_component(tiny_experiment: Write, tmp_path: Path) -> None:
    """Against the recursion written out: teacher ← decay · teacher + (1 - decay) · student."""
    path = extension(
        tiny_experiment,
        tmp_path,
        "self_distillation",
        {"action_head": HEAD},
        teacher_decay=0.75,
        n_action_steps=1,
    )
    steps = [
        "train.epoch=null",
        "train.checkpoint={save_every_n_steps: 1, keep: null}",
        "train.ema.enabled=false",
    ]
    run = tmp_path / "steps"
    expected: dict[str, torch.Tensor] = {}
    for step in (1, 2, 3):
        train(path, [*steps, f"train.save_dir={run}", f"train.max_steps={step}"])
        now = state(run, f"step_{step}")
        student = now["models"]["observation_encoder"]
        teacher = now["update"]["teachers"]["observation_encoder"]["weights"]
        for key, value in teacher.items():
            if key in expected:
                torch.testing.assert_close(value, 0.75 * expected[key] + 0.25 * student[key])
        expected = teacher
    assert weights(run / "step_3", "action_head")


@pytest.mark.slow
def test_a_teacher_on_two_ranks_is_that_of_one(tiny_experiment: Write, tmp_path: Path) -> None:
    parts = {"action_head": HEAD}
    path = extension(tiny_experiment, tmp_path, "self_distillation", parts, n_action_steps=1)
    same = smooth(*parts)
    single = train(path, [f"train.save_dir={tmp_path / 'one'}", *same])
    for parallel in ("ddp", "fsdp"):
        run = tmp_path / parallel
        launch(path, run, 2, f"train.parallel={parallel}", "data.batch_size=8", "train.epoch=2", *same)
        launch(path, run, 2, f"train.parallel={parallel}", "data.batch_size=8", *same)
        # Each rank divides by the running error of its own samples, so the runs are alike, not equal.
        np.testing.assert_allclose(losses(run, "consistency"), losses(single, "consistency"), rtol=1e-2)
        ours, theirs = (state(r)["update"]["teachers"]["observation_encoder"] for r in (run, single))
        for key, value in theirs["weights"].items():
            torch.testing.assert_close(ours["weights"][key], value, rtol=1e-2, atol=1e-4)
