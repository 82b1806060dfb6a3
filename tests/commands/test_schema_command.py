"""`trainer schema`: the JSON schema of the experiment YAML."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from model_constructor import load_yaml_node, to_data

from trainer.cli import main

jsonschema = pytest.importorskip("jsonschema")
ROOT = Path(__file__).parents[2]
SHIPPED = [
    *sorted((ROOT / "examples/configs").glob("*.yaml")),
    *sorted((ROOT / "experiment_training").rglob("*.yaml")),
]


@pytest.fixture(scope="module")
def validator(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What an editor would check with, made by the command."""
    path = tmp_path_factory.mktemp("schema") / "experiment.schema.json"
    result = CliRunner().invoke(main, ["schema", "--out", str(path)])
    assert result.exit_code == 0, result.output
    schema = json.loads(path.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def read(path: Path) -> Any:
    return to_data(load_yaml_node(path))[0]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: str(p.relative_to(ROOT)))
def test_shipped_experiments_fit(validator: Any, path: Path) -> None:
    assert [error.message for error in validator.iter_errors(read(path))] == []


def spoilt(**changes: Any) -> Mapping[str, Any]:
    config = read(ROOT / "examples/configs/minimal.yaml")
    for dotted, value in changes.items():
        *keys, last = dotted.split("__")
        below = config
        for key in keys:
            below = below[key]
        below[last] = value
    return config


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"train__epochh": 3}, "train"),
        ({"train__epoch": "many"}, "train.epoch"),
        ({"data__normalization": "minmax"}, "data.normalization"),
        ({"train__trainer__type": "state_regresion_trainer"}, "train.trainer.type"),
        ({"train__trainer__params__n_action_step": 3}, "train.trainer.params.n_action_step"),
        ({"train__trainer__params__n_action_steps": "many"}, "train.trainer.params.n_action_steps"),
        ({"train__callbacks": [{"type": "early_stopping", "params": {"patience": "x"}}]},
         "train.callbacks.0.params.patience"),
        ({"train__loggers": [{"type": "csv", "param": {}}]}, "train.loggers.0"),
    ],
)  # fmt: skip
def test_mistakes_are_found_at_their_places(validator: Any, change: dict[str, Any], place: str) -> None:
    (error,) = validator.iter_errors(spoilt(**change))
    assert ".".join(map(str, error.absolute_path)) == place


@pytest.mark.parametrize(
    "change",
    [
        {"train__epoch": "${params.epochs}"},
        {"train__callbacks": {"_merge_": "append", "_value_": []}},
        {"defaults": ["a.yaml", {"b": "b.yaml"}]},
        {"train__trainer__params__of_the_file_below": None},
        {"model__component_optims__action_head": None},
    ],
)
def test_what_files_may_say_beside_plain_values(validator: Any, change: dict[str, Any]) -> None:
    assert [error.message for error in validator.iter_errors(spoilt(**change))] == []


def test_parameters_are_described(validator: Any) -> None:
    (one,) = [
        branch["then"]["properties"]["params"]["properties"]
        for branch in validator.schema["$defs"]["callback"]["allOf"]
        if branch["if"]["properties"]["type"]["const"] == "early_stopping"
    ]
    assert one["patience"]["default"] == 3
    assert one["patience"]["description"].startswith("measurements without improvement")


def test_plugins_of_an_experiment_are_in_it(tiny_experiment: Callable[..., Path]) -> None:
    path = tiny_experiment(lambda c: c["plugins"].append("plugin_of_the_schema"))
    (path.parent / "pyproject.toml").touch()
    (path.parent / "plugin_of_the_schema.py").write_text(
        "from trainer.registry import CALLBACK_REGISTRY\nfrom trainer.templates import Callback\n"
        "@CALLBACK_REGISTRY.register('callback_of_the_schema')\nclass Mine(Callback):\n"
        "    def __init__(self, every: int = 5): ...\n"
    )
    result = CliRunner().invoke(main, ["schema", str(path)])
    assert result.exit_code == 0, result.output
    kinds = json.loads(result.stdout)["$defs"]["callback"]["properties"]["type"]["anyOf"][0]["enum"]
    assert "callback_of_the_schema" in kinds
