"""`trainer list`: what is registered, with its parameters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from trainer.cli import main
from trainer.engine.registered import meanings_in


def call(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["list", *map(str, arguments)])
    return result.exit_code, result.output


def test_one_component_is_shown_in_full() -> None:
    code, output = call("optimizer_builder", "adamw_cosine_schedule")
    assert code == 0
    assert "plugins:    - experiment_training.components.optimizer.adamw_cosine_schedule" in output
    assert "Builds `AdamWWithOneCycle`." in output
    assert "  max_lr  (number, required)\n      highest learning rate, > 0." in output
    assert "  pct_start  (number, default 0.3)" in output
    assert "Args:" not in output


def test_those_of_a_kind_are_listed_with_types_and_defaults() -> None:
    code, output = call("callback")
    assert code == 0
    assert "early_stopping  Ends a run when a measure has not improved for some time." in output
    assert "patience: integer = 3" in " ".join(output.split())


def test_a_policy_is_described_by_its_own_docstring_and_a_dataset_by_its_parameters() -> None:
    found = json.loads(call("trainer", "act_trainer", "--json")[1])
    assert found["summary"].startswith("Predicts an action chunk")
    assert {"name": "action_dim", "type": "integer", "required": True, "meaning": "A."} in found["parameters"]
    data = json.loads(call("dataset_builder", "lerobot_dataset_factory", "--json")[1])
    (horizon,) = [one for one in data["parameters"] if one["name"] == "action_horizon"]
    assert (horizon["default"], horizon["type"]) == (1, "integer")
    assert horizon["meaning"].startswith("actions in a chunk")


def test_blocks_of_the_model_language_are_listed_too() -> None:
    found = json.loads(call("block", "mlp", "--json")[1])
    assert [one["name"] for one in found["parameters"]][:2] == ["dims", "activation"]
    assert found["parameters"][0]["required"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["loger"], "there is no kind 'loger'; did you mean 'logger'?"),
        (["logger", "csvv"], "no logger is registered as 'csvv'; did you mean 'csv'?"),
    ],
)
def test_names_that_are_not_there(asked: list[str], said: str) -> None:
    assert call(*asked) == (2, f"Error: {said}\n")


def test_plugins_of_ones_own_are_listed(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "plugin_of_the_list.py").write_text(
        "from trainer.registry import METRIC_REGISTRY\nfrom trainer.engine.metrics import ActionError\n"
        "@METRIC_REGISTRY.register('metric_of_the_list')\nclass Mine(ActionError):\n    '''Measures.'''\n"
    )
    config = tmp_path / "x.yaml"
    config.write_text("plugins: [plugin_of_the_list]\n")
    code, output = call("metric", "--config", config)
    assert code == 0
    assert "metric_of_the_list  Measures." in output


def test_the_meanings_in_a_docstring() -> None:
    doc = (
        "What.\n\nMore.\n\nArgs:\n    a: one\n        and on.\n    b: two.\n\nReturns:\n    c: no parameter."
    )
    assert meanings_in(doc) == {"a": "one and on.", "b": "two."}


@pytest.mark.parametrize("short", ["policy", "dataset", "loss", "optimizer"])
def test_kinds_are_known_by_the_names_that_trainer_new_takes(short: str) -> None:
    full = {"policy": "trainer"}.get(short, f"{short}_builder")
    asked, meant = (CliRunner().invoke(main, ["list", kind]) for kind in (short, full))
    assert asked.exit_code == 0
    assert asked.output == meant.output
