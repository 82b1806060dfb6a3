"""Every mistake in an experiment YAML ends in one sentence with its place, exit code 2, and no run folder."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner
from helpers.tiny_experiment import write_dataset

from trainer.offline_trainer import main

Write = Callable[..., Path]
Config = dict[str, Any]


def attempt(path: Path) -> str:
    result = CliRunner().invoke(main, ["--train_config", str(path)])
    assert result.exit_code == 2, result.output
    assert not (path.parent / "run").exists()
    return result.output


def put(*keys: str) -> Callable[[Any], Callable[[Config], None]]:
    """Return a function that makes a change of the value at `keys`."""

    def to(value: Any) -> Callable[[Config], None]:
        def change(config: Config) -> None:
            for key in keys[:-1]:
                config = config[key]
            config[keys[-1]] = value

        return change

    return to


def useless_loss(config: Config) -> None:
    config["plugins"].append("experiment_training.components.loss.l2")
    config["train"]["loss"] = {"type": "l2_loss"}


DATA = ("data", "datamodule", "params")
SIMPLE: dict[str, tuple[Callable[[Config], None], str]] = {
    "unknown key": (put("train", "epochs")(3), "train.epochs: unknown key; did you mean 'epoch'?"),
    "wrong type": (put("train", "epoch")("many"), "train.epoch: input should be a valid integer"),
    "key of other frameworks": (
        put("train", "amp")(True),
        "train.amp: unknown key; use `precision: bf16` or `precision: fp16` at the top level",
    ),
    "unknown registry key": (
        put("train", "trainer", "type")("state_flow_matchin_trainer"),
        "is registered as 'state_flow_matchin_trainer'; did you mean 'state_flow_matching_trainer'?",
    ),
    "loss that the policy does not take": (
        useless_loss,
        "train.trainer: StateFlowMatchingPolicy takes no loss, so train.loss would have no effect",
    ),
    "unknown parameter": (
        put("train", "trainer", "params", "horizon")(3),
        "train.trainer.params.horizon: unknown key; did you mean",
    ),
    "parameter out of range": (
        put("train", "trainer", "params", "n_action_steps")(9),
        "n_action_steps is 9, but a chunk holds 1 to 4",
    ),
    "nothing to train": (
        put("model", "component_optims")({}),
        "model: no component has an optimizer and parameters to train, so nothing would be trained",
    ),
    "optimizer out of range": (
        put("model", "component_optims", "velocity_decoder", "params")({"peak_lr": -1.0}),
        "peak_lr must be greater than 0",
    ),
    "component YAML missing": (
        put("model", "component_config_paths", "velocity_decoder")("models/gone.yaml"),
        "there is no component YAML models/gone.yaml",
    ),
    "plugin missing": (put("plugins")(["no.such.module"]), "plugin 'no.such.module' cannot be imported"),
    "dataset missing": (put(*DATA, "root")("nowhere"), "nowhere"),
    "column missing": (put(*DATA, "features")(["observation.stat"]), "observation.stat"),
    "horizon too long": (put(*DATA, "action_horizon")(31), "31"),
    "unknown data parameter": (put(*DATA, "action_horizn")(3), "did you mean 'action_horizon'?"),
    "save_dir not writable": (put("train", "save_dir")("/proc/run"), "/proc/run cannot be"),
    "load_dir missing": (put("train", "load_dir")("nowhere"), "there is no folder nowhere"),
    "chunk of another length": (
        put("train", "trainer", "params", "action_horizon")(3),
        "train.trainer.params.action_horizon: action_horizon is 3, the dataset's action chunks have 4",
    ),
    "policy of another action size": (
        put("train", "trainer", "params", "action_dim")(3),
        "train.trainer.params.action_dim: action_dim is 3, the dataset's action has 2",
    ),
    "data of another horizon": (
        put(*DATA, "action_horizon")(8),
        "train.trainer.params.action_horizon: action_horizon is 4, the dataset's action chunks have 8",
    ),
    "batch larger than the data": (put("data", "batch_size")(1000), "data.batch_size"),
    "more loader workers than a machine can start": (
        put("data", "num_workers")(10**9),
        "data.num_workers: input should be less than or equal to 1024, not 1000000000",
    ),
    "no such device": (put("device")("tpu"), "'tpu' is no device; use auto, cpu, cuda or cuda:N"),
    "simulator missing": (
        put("train", "evaluation")({"env": "metawrld/push-v3"}),
        "train.evaluation.env",
    ),
}


@pytest.mark.parametrize("name", SIMPLE)
def test_one_sentence_with_its_place(tiny_experiment: Write, name: str) -> None:
    change, message = SIMPLE[name]
    path = tiny_experiment(change)
    output = attempt(path)
    assert message in output
    assert "1 error(s)" in output
    line, column = map(int, re.findall(r"experiment\.yaml:(\d+):(\d+):", output)[0])
    assert line > 1 or column > 1 or name == "plugin missing"


def test_a_missing_default_is_found_where_it_is_named(tiny_experiment: Write) -> None:
    path = tiny_experiment()
    path.write_text(f"defaults:\n  - base: gone.yaml\n{path.read_text()}")
    assert re.search(r"experiment\.yaml:2:\d+: config file not found: .*gone\.yaml", attempt(path))


def test_defaults_that_include_each_other_are_a_cycle(tiny_experiment: Write) -> None:
    path = tiny_experiment()
    path.write_text(f"defaults:\n  - base: experiment.yaml\n{path.read_text()}")
    assert "cycle: experiment.yaml -> experiment.yaml" in attempt(path)


def test_mistakes_in_a_model_yaml_are_found_in_that_file(tiny_experiment: Write) -> None:
    path = tiny_experiment()
    decoder = path.parent / "models/velocity_decoder.yaml"
    decoder.write_text(decoder.read_text().replace("num_blocks", "num_block"))
    output = attempt(path)
    assert re.search(r"velocity_decoder\.yaml:\d+:\d+: ", output)
    assert "num_block" in output
    assert "num_blocks" in output


def test_an_unknown_block_is_answered_with_the_nearest(tiny_experiment: Write) -> None:
    path = tiny_experiment()
    encoder = path.parent / "models/observation_encoder.yaml"
    encoder.write_text(encoder.read_text().replace("_type_: mlp", "_type_: mpl"))
    output = attempt(path)
    assert re.search(r"observation_encoder\.yaml:\d+:\d+: ", output)
    assert "'mlp'" in output


def test_nan_in_an_action_is_found_before_training(tiny_experiment: Write, tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "broken", episodes=2)
    (file,) = root.glob("data/**/*.parquet")
    table = pq.read_table(file)
    action = np.stack(table["action"].to_numpy())
    action[47, 1] = np.nan
    column = pa.FixedSizeListArray.from_arrays(pa.array(action.ravel()), 2)
    pq.write_table(table.set_column(table.column_names.index("action"), "action", column), file)
    output = attempt(tiny_experiment(put(*DATA, "root")(str(root))))
    assert "NaN" in output
    assert "episode 1" in output
    assert "frame 17" in output


def test_independent_mistakes_come_together(tiny_experiment: Write) -> None:
    def spoil(config: Config) -> None:
        config["train"]["epochs"] = 3
        config["train"]["trainer"]["type"] = "nothing_like_it"
        config["model"]["component_config_paths"]["velocity_decoder"] = "gone.yaml"
        config["data"]["datamodule"]["params"]["root"] = "nowhere"
        config["train"]["save_dir"] = "/proc/run"

    output = attempt(tiny_experiment(spoil))
    assert "5 error(s)" in output


def test_augmentation_that_has_no_effect_is_a_mistake(tiny_experiment: Write) -> None:
    output = attempt(tiny_experiment(put("data", "augmentation")({"color_jitter": {"hue": 0.2}})))
    assert "data.augmentation.color_jitter: the dataset gives no camera" in output


COUNTING = """
import torch
from torch import nn
from trainer.registry import TRAINER_REGISTRY
from trainer.engine.policy_trainer import PolicyTrainer
from experiment_training.components.trainer.imitation_learning.state_flow_matching import policy

class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x.flatten(1)

    def get_extra_state(self):
        return {"calls": self.calls}

    def set_extra_state(self, state):
        self.calls = state["calls"]

class CountingPolicy(policy.StateFlowMatchingPolicy):
    def __init__(self, components, **params):
        super().__init__(components, **params)
        self.counting = Counting()

@TRAINER_REGISTRY.register("counting_trainer")
class CountingTrainer(PolicyTrainer):
    policy_class = CountingPolicy
"""


@pytest.mark.parametrize("frozen", [False, True])
def test_a_component_with_state_beside_its_tensors_is_refused_by_name(
    tiny_experiment: Write, tmp_path: Path, frozen: bool
) -> None:
    def freeze(config: Config) -> None:
        config["plugins"].append("counting_block")
        if frozen:
            config["model"]["component_build_args"] = {"observation_encoder": {"freeze": True}}
            del config["model"]["component_optims"]["observation_encoder"]

    (tmp_path / "counting_block.py").write_text(COUNTING.replace("counting_trainer", f"counting_{frozen}"))
    path = tiny_experiment(freeze)
    encoder = tmp_path / "models/observation_encoder.yaml"
    model = yaml.safe_load(encoder.read_text())
    model["settings"] = {"allow_target": True, "allowed_import_prefixes": ["counting_block"]}
    model["model"]["graph"]["modules"]["flatten"] = {"_target_": "counting_block.Counting"}
    encoder.write_text(yaml.safe_dump(model))
    said = attempt(path)
    assert "model.component_config_paths.observation_encoder: Counting (graph_modules.flatten)" in said
    assert "of component 'observation_encoder' keeps state by get_extra_state" in said
    assert "register_buffer" in said
    sys.modules.pop("counting_block")


def test_a_policy_with_state_beside_its_tensors_is_refused_by_name(
    tiny_experiment: Write, tmp_path: Path
) -> None:
    def count(config: Config) -> None:
        config["plugins"].append("counting_policy")
        config["train"]["trainer"]["type"] = "counting_trainer"

    (tmp_path / "counting_policy.py").write_text(COUNTING)
    said = attempt(tiny_experiment(count))
    assert "train.trainer: Counting (counting) of the policy keeps state by get_extra_state" in said
