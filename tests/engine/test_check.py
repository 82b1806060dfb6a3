"""What a check finds and hands on before anything is built."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from torch.utils.data import Dataset, IterableDataset

from trainer.cli import main
from trainer.config.errors import ConfigError
from trainer.config.loader import load_located
from trainer.deployment.robot_policy import load_policy
from trainer.engine.build_data import build_data
from trainer.engine.check import check
from trainer.offline_trainer import attempt, train
from trainer.registry import DATASET_BUILDER_REGISTRY, OPTIMIZER_BUILDER_REGISTRY

Write = Callable[..., Path]
Config = dict[str, Any]


def test_parameters_are_converted_once_for_training_the_checkpoint_and_the_robot(
    tiny_experiment: Write,
) -> None:
    def change(config: Config) -> None:
        config["train"].update(epoch=1, loggers=[])
        config["train"]["trainer"]["params"]["n_action_steps"] = "2"
        for optimizer in config["model"]["component_optims"].values():
            optimizer["params"]["peak_lr"] = "1e-3"

    path = tiny_experiment(change)
    config = check(load_located(path)).config
    assert config.train.trainer.params["n_action_steps"] == 2
    assert config.model.component_optims["velocity_decoder"].params["peak_lr"] == 1e-3
    run = train(path)
    saved = run / "epoch_1/config.yaml"
    assert yaml.safe_load(saved.read_text())["train"]["trainer"]["params"]["n_action_steps"] == 2
    assert load_policy(run, device="cpu").n_action_steps == 2


def test_a_run_that_saved_parameters_as_written_is_taken_up(tiny_experiment: Write) -> None:
    from helpers.checkpoints import seal

    def change(config: Config) -> None:
        config["train"].update(epoch=1, loggers=[])
        config["train"]["trainer"]["params"]["n_action_steps"] = "2"

    path = tiny_experiment(change)
    run = train(path)
    saved = run / "epoch_1/config.yaml"
    config = yaml.safe_load(saved.read_text())
    config["train"]["trainer"]["params"]["n_action_steps"] = "2"
    saved.write_text(yaml.safe_dump(config))
    seal(run / "epoch_1")
    assert load_policy(run, device="cpu").n_action_steps == 2
    train(path)  # finished, and the same experiment


def test_mistakes_of_configuration_and_data_come_together(tiny_experiment: Write) -> None:
    def spoil(config: Config) -> None:
        config["train"]["epochs"] = 3
        config["data"]["datamodule"]["params"]["features"] = ["observation.stat"]

    checked = check(load_located(tiny_experiment(spoil)))
    with pytest.raises(ConfigError) as caught:
        build_data(checked)
    paths = [issue.error_path for issue in caught.value.issues]
    assert paths == ["data.datamodule.params.features", "train.epochs"]
    with pytest.raises(ConfigError, match="1 error"):
        _ = checked.config


class Samples(Dataset[Any]):
    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Any:
        return {"observation.state": torch.zeros(2, 5), "action": torch.zeros(4, 2)}


class Tuples(Samples):
    def __getitem__(self, index: int) -> Any:
        return torch.zeros(5), torch.zeros(2)


class Uneven(Samples):
    def __getitem__(self, index: int) -> Any:
        return {**super().__getitem__(index), "action": torch.zeros(4 + index % 2, 2)}


class Nothings(Samples):
    def __getitem__(self, index: int) -> Any:
        return {**super().__getitem__(index), "goal": None}


class Unmoved(Samples):
    def __getitem__(self, index: int) -> Any:
        return {"observation.state": torch.zeros(2, 5)}


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield from ()


def norm_stats(width: int) -> dict[str, Any]:
    return {"action": {"mean": np.zeros(width), "std": np.ones(width)}}


@pytest.mark.parametrize(
    ("built", "message"),
    [
        (lambda: {"dataset": Tuples()}, "a sample of Tuples is a tuple; it must be a dict of feature"),
        (lambda: {"dataset": Endless()}, "built the iterable dataset Endless"),
        (lambda: {"data": Samples()}, "returned a dict with data; its build must return"),
        (lambda: (Samples(), {}), "returned a tuple; its build must return"),
        (lambda: None, "returned nothing; its build must return"),
        (lambda: {"dataset": Samples(), "norm_stats": norm_stats(3)}, r"mean of 'action' .* shape \(3,\)"),
        (lambda: {"dataset": Samples(), "norm_stats": [1]}, "returned a list for norm_stats"),
        (lambda: {"dataset": Nothings()}, "samples of Nothings cannot be put together into a batch: .*None"),
        (
            lambda: {"dataset": Samples(), "norm_stats": {"action": {"mean": "x", "std": 1.0}}},
            "the mean of 'action' in norm_stats is not made of finite numbers",
        ),
        (
            lambda: {"dataset": Samples(), "norm_stats": {"action": {"mean": 0.0, "std": np.nan}}},
            "the std of 'action' in norm_stats is not made of finite numbers",
        ),
    ],
)
def test_a_factory_that_breaks_its_contract_is_named(
    tiny_experiment: Write, monkeypatch: pytest.MonkeyPatch, built: Callable[[], Any], message: str
) -> None:
    class Factory:
        def build(self, opt_params: Config, params: Config) -> Any:
            return built()

    monkeypatch.setitem(DATASET_BUILDER_REGISTRY._entries, "mine", Factory)
    path = tiny_experiment(lambda c: c["data"].update(datamodule={"type": "mine", "params": {"any": 1}}))
    with pytest.raises(ConfigError, match=message) as caught:
        build_data(check(load_located(path)))
    assert "dataset_builder 'mine'" in str(caught.value)
    assert len(caught.value.issues) == 1


def test_factories_as_documented_with_and_without_constructor_and_declared_parameters(
    tiny_experiment: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    class Plain:
        def build(self, opt_params: Config, params: Config) -> Config:
            seen.append(params)
            return {"dataset": Samples()}

    class Constructed(Plain):
        def __init__(self, size: int) -> None:
            seen.append(size)

    class Declared(Plain):
        parameters = staticmethod(lambda size=1: None)

    def built(factory: type, **params: Any) -> list[Any]:
        monkeypatch.setitem(DATASET_BUILDER_REGISTRY._entries, "mine", factory)
        path = tiny_experiment(lambda c: c["data"].update(datamodule={"type": "mine", "params": params}))
        seen.clear()
        build_data(check(load_located(path)))
        return list(seen)

    assert built(Plain, size="3", more=1) == [{"size": "3", "more": 1}]
    assert built(Constructed, size="3", more=1) == [3, {"size": 3, "more": 1}]
    assert built(Declared, size=3) == [{"size": 3}]
    with pytest.raises(ConfigError, match=r"params\.size: this key is required"):
        built(Constructed)
    with pytest.raises(ConfigError, match=r"params\.sise: unknown key; did you mean 'size'"):
        built(Declared, sise=3)


def test_an_optimizer_factory_without_return_is_named(
    tiny_experiment: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forgetful:
        def build(self, params: Sequence[Any]) -> None:
            torch.optim.SGD(params)

    monkeypatch.setitem(OPTIMIZER_BUILDER_REGISTRY._entries, "mine", Forgetful)
    path = tiny_experiment(lambda c: c["model"]["component_optims"].update(velocity_decoder={"type": "mine"}))
    with pytest.raises(ConfigError, match=r"optimizer_builder 'mine' must return an optimizer .* nothing"):
        train(path)


ODD_PARTS = """
import numpy as np
import torch
from experiment_training.components.trainer.imitation_learning.state_flow_matching import policy
from trainer.engine.policy_trainer import register_policy
from trainer.registry import CALLBACK_REGISTRY, LOGGER_REGISTRY, LOSS_BUILDER_REGISTRY, METRIC_REGISTRY
from trainer.templates import Callback

Flow = policy.StateFlowMatchingPolicy
for key, method, function in (
    ("vector", "loss", lambda self, batch, context: {"total": torch.ones(3, requires_grad=True)}),
    ("number", "loss", lambda self, batch, context: {"total": 3.0}),
    ("constant", "loss", lambda self, batch, context: {"total": torch.tensor(3.0)}),
    ("still", "predict_action", lambda self, observation, context: None),
    ("numpy", "predict_action", lambda self, observation, context: np.zeros((2, 4, 2))),
):
    register_policy(f"{key}_policy")(type(f"{key.capitalize()}Policy", (Flow,), {method: function}))

def measuring(value):
    return type("Measuring", (Callback,), {"after_epoch": lambda self, experiment: value})

CALLBACK_REGISTRY.register("one_number")(measuring(3.0))
CALLBACK_REGISTRY.register("a_text")(measuring({"quality": "good"}))
METRIC_REGISTRY.register("no_metric")(type("NoMetric", (), {"measure": lambda self, p, b, c: None}))
METRIC_REGISTRY.register("three")(type("Three", (), {"measure": lambda self, p, b, c: torch.ones(3)}))
LOSS_BUILDER_REGISTRY.register("no_loss")(type("NoLoss", (), {"build": lambda self: None}))
LOGGER_REGISTRY.register("no_start")(
    type("NoStart", (), {n: lambda self, *given: None for n in ("start", "log", "finish")})
)
"""
POLICY = ("train", "trainer", "type")


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (POLICY, "vector_policy", "the loss to train is a tensor of shape (3,); it must be one number"),
        (POLICY, "number_policy", "the loss to train is a float; it must be one number, as a tensor"),
        (POLICY, "constant_policy", "a tensor of shape () on which no weight has an influence"),
        (
            POLICY,
            "still_policy",
            "the first forward pass fails: predict_action returns nothing",
        ),
        (
            POLICY,
            "numpy_policy",
            "predict_action returns a ndarray of shape (2, 4, 2); it must",
        ),
        (
            ("train", "callbacks"),
            [{"type": "one_number"}],
            "after_epoch of callback Measuring returned a",
        ),
        (
            ("train", "callbacks"),
            [{"type": "a_text"}],
            "after_epoch of callback Measuring measured a str",
        ),
        (("train", "metrics"), [{"type": "no_metric"}], "metric 'no_metric' measured nothing of 16 samples"),
        (("train", "metrics"), [{"type": "three"}], "metric 'three' measured a tensor of shape (3,) of 16"),
        (("train", "loss"), {"type": "no_loss"}, "train.loss: loss_builder 'no_loss' must return a module"),
        (("train", "loggers"), [{"type": "no_start"}], "the start of logger NoStart returned nothing; it"),
    ],
)
def test_a_plugin_that_breaks_its_contract_is_named(
    tiny_experiment: Write, tmp_path: Path, keys: Sequence[str], value: Any, message: str
) -> None:
    def change(config: Config) -> None:
        config["plugins"].append("odd_parts")
        config["train"]["epoch"] = 1
        if keys[-1] == "metrics":
            config["data"]["validation"] = {"fraction": 0.3}
        for key in keys[:-1]:
            config = config[key]
        config[keys[-1]] = value

    (tmp_path / "odd_parts.py").write_text(ODD_PARTS)
    outcome = attempt(tiny_experiment(change))
    assert outcome.code == 2
    assert message in outcome.text
    assert outcome.text.count("Error") == 1
    assert outcome.text.count("Config validation failed") <= 1


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (
            Uneven(),
            "datamodule: samples of Uneven cannot be put together into a batch: .* same names",
        ),
        (Unmoved(), "the batch has no 'action'; it has observation.state"),
    ],
)
def test_samples_that_cannot_be_trained_on_are_said_before_training(
    tiny_experiment: Write, monkeypatch: pytest.MonkeyPatch, samples: Samples, message: str
) -> None:
    class Factory:
        def build(self, opt_params: Config, params: Config) -> Config:
            return {"dataset": samples}

    monkeypatch.setitem(DATASET_BUILDER_REGISTRY._entries, "mine", Factory)
    path = tiny_experiment(lambda c: c["data"].update(datamodule={"type": "mine"}, batch_size=4))
    with pytest.raises(ConfigError, match=message):
        train(path)
    assert not (path.parent / "run/run.json").exists()


@pytest.mark.parametrize("metric", ["validation/totl", "sucess_rate"])
def test_a_measure_that_nobody_takes_is_told_before_training(tiny_experiment: Write, metric: str) -> None:
    def change(config: Config) -> None:
        config["data"]["validation"] = {"fraction": 0.3}
        config["train"]["callbacks"] = [{"type": "early_stopping", "params": {"metric": metric}}]

    path = tiny_experiment(change)
    with pytest.raises(
        ConfigError, match=rf"callbacks\[0\]\.params\.metric: nothing measures '{metric}'"
    ) as caught:
        train(path)
    assert metric == "sucess_rate" or "did you mean 'validation/total'?" in str(caught.value)
    assert not (path.parent / "run").exists()


def test_the_command_prints_what_would_run(tiny_experiment: Write) -> None:
    path = tiny_experiment(lambda c: c["data"].update(prefetch_factor=2))
    result = CliRunner().invoke(main, ["check", str(path), "--ranks", "2"])
    assert result.exit_code == 0, result.output
    lines = {line.partition("  ")[0]: line.partition("  ")[2].strip() for line in result.output.splitlines()}
    table = [line.split() for line in result.output.splitlines()]
    (decoder,) = [cells for cells in table if cells[:1] == ["velocity_decoder"]]
    assert decoder[1:3] == ["models/velocity_decoder.yaml", "adamw_warmup_cosine_decay"]
    assert lines["global batch"] == "32 samples an update"
    assert lines["updates"] == "5 an epoch, 10 in all"
    assert "data.prefetch_factor has no effect" in result.output
    assert not (path.parent / "run").exists()


def test_the_command_exits_with_two_on_mistakes(tiny_experiment: Write) -> None:
    path = tiny_experiment(lambda c: c["train"].update(epochs=2))
    result = CliRunner().invoke(main, ["check", str(path)])
    assert result.exit_code == 2
    assert "train.epochs: unknown key" in result.output


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("train", "save_dir"), "x" * 300, "too long"),
        (("train", "save_dir"), "a\0b", "null byte"),
        (("train", "load_dir"), "a\0b", "null byte"),
        (("model", "component_config_paths", "velocity_decoder"), "/dev/zero", "there is no component YAML"),
        (("model", "component_config_paths", "velocity_decoder"), "y" * 5000, "too long"),
        (("data", "datamodule", "params", "root"), "a\0b", "null byte"),
        (("data", "datamodule", "params", "root"), "/dev/zero", "there is no dataset"),
        (("data", "datamodule", "params", "action_horizon"), 10**9, "action_horizon: input should be less"),
        (("data", "datamodule", "params", "obs_proprio_history"), 10**6, "longer than every episode"),
        (("train", "seed"), 10**30, r"train\.seed"),
    ],
)
def test_extreme_values_are_answered_at_their_place(
    tiny_experiment: Write, keys: Sequence[str], value: Any, message: str
) -> None:
    def change(config: Config) -> None:
        for key in keys[:-1]:
            config = config[key]
        config[keys[-1]] = value

    with pytest.raises(ConfigError, match=message) as caught:
        build_data(check(load_located(tiny_experiment(change))))
    assert caught.value.issues[0].error_path == ".".join(keys)


def test_a_model_yaml_that_includes_a_device_is_refused(tiny_experiment: Write) -> None:
    path = tiny_experiment()
    decoder = path.parent / "models/velocity_decoder.yaml"
    decoder.write_text(f"defaults: [/dev/zero]\n{decoder.read_text()}")
    with pytest.raises(ConfigError, match="not a file: /dev/zero"):
        build_data(check(load_located(path)))


def test_the_configuration_of_a_check_can_be_written_down(tiny_experiment: Write) -> None:
    config = check(load_located(tiny_experiment())).config
    assert json.loads(json.dumps(config.model_dump(mode="json")))["data"]["batch_size"] == 16


def test_a_model_yaml_builds_on_a_shipped_one(tiny_experiment: Write, tmp_path: Path) -> None:
    model = tmp_path / "elsewhere/model.yaml"
    model.parent.mkdir()
    shipped = "experiment_models/act/pusht_image/style_encoder.yaml"
    model.write_text(
        f"schema_version: 1\ndefaults: [{shipped}]\nparams: {{ state_dim: 9 }}\n", encoding="utf-8"
    )
    config = tiny_experiment(lambda c: c["model"]["component_config_paths"].update(extra=str(model)))
    assert not check(load_located(config)).issues.found
