"""Checking a configuration against the schema and against signatures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer.config.errors import ConfigError
from trainer.config.loader import LocatedConfig, load_config, load_located
from trainer.config.validation import Issues, validate_config, validate_parameters, validate_schema

Write = Callable[..., Path]


def test_the_small_experiment_is_valid_and_defaults_are_filled_in(tiny_experiment: Write) -> None:
    config = validate_config(load_config(tiny_experiment()))
    assert config.data.num_workers == 0
    assert config.run_seed == 7


def test_train_seed_wins_over_the_top_level_seed_after_the_models_are_built(tiny_experiment: Write) -> None:
    config = validate_config(load_config(tiny_experiment(lambda c: c["train"].update(seed=11))))
    assert (config.seed, config.run_seed) == (7, 11)


def test_all_mistakes_are_reported_at_once_with_near_names(tiny_experiment: Write) -> None:
    def spoil(config: dict[str, Any]) -> None:
        config["train"]["epochh"] = 3
        config["data"]["batch_size"] = 0
        del config["train"]["project_name"]
        config["model"]["component_optims"]["velocity_decodr"] = {"type": "x"}

    with pytest.raises(ConfigError) as caught:
        validate_config(load_config(tiny_experiment(spoil)))
    text = str(caught.value)
    assert "3 error(s)" in text
    assert "train.epochh: unknown key; did you mean 'epoch'?" in text
    assert "train.project_name: this key is required" in text
    assert "data.batch_size: input should be greater than 0, not 0" in text


def test_true_is_no_number(tiny_experiment: Write) -> None:
    def spoil(config: dict[str, Any]) -> None:
        config["train"].update(epoch=True, gradient_clip_val={"velocity_decoder": True})
        config["data"]["num_workers"] = False
        config["train"]["epochh"] = 3
        config["train"]["ema"]["enabled"] = True

    path = tiny_experiment(spoil)
    lines = path.read_text().splitlines()
    issues = Issues(load_located(path))
    assert validate_schema(issues) is None
    found = {one.error_path: one for one in issues.found}
    assert found.keys() == {
        "train.epoch",
        "train.gradient_clip_val.velocity_decoder",
        "data.num_workers",
        "train.epochh",
    }
    assert found["train.epoch"].error_message == "input should be a number, not True"
    place = found["data.num_workers"].location
    assert place is not None
    assert lines[place.line - 1].strip() == "num_workers: false"


def test_names_of_components_must_agree(tiny_experiment: Write) -> None:
    def spoil(config: dict[str, Any]) -> None:
        config["model"]["component_build_args"] = {"velocity_decodr": {"init": True}}

    with pytest.raises(ConfigError, match="no component of this name; did you mean 'velocity_decoder'"):
        validate_config(load_config(tiny_experiment(spoil)))


def test_an_optimizer_for_a_frozen_component_would_have_no_effect(tiny_experiment: Write) -> None:
    def spoil(config: dict[str, Any]) -> None:
        config["model"]["component_build_args"] = {"velocity_decoder": {"freeze": True}}

    with pytest.raises(ConfigError, match="frozen, so its optimizer would have no effect"):
        validate_config(load_config(tiny_experiment(spoil)))


class Target:
    def __init__(self, models: object, lr: float, steps: int = 3, names: list[str] | None = None) -> None: ...


def check(tmp_path: Path, text: str) -> tuple[dict[str, Any] | None, list[str]]:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    located = load_located(path)
    issues = Issues(located)
    given = validate_parameters(issues, ("params",), located.data["params"], Target, {"models"})
    return given, [str(i) for i in issues.found]


def test_parameters_are_converted_by_the_annotations_of_their_receiver(tmp_path: Path) -> None:
    given, found = check(tmp_path, "params: {lr: 1e-4, steps: 5}\n")
    assert given == {"lr": 1e-4, "steps": 5}
    assert found == []


def test_wrong_parameters_are_named_with_their_places(tmp_path: Path) -> None:
    given, found = check(tmp_path, "params:\n  step: 5\n  names: 3\n  models: 1\n")
    assert given is None
    text = "\n".join(found)
    assert "x.yaml:2:" in text
    assert "params.step: unknown key; did you mean 'steps'?" in text
    assert "params.names: input should be a valid list, not 3" in text
    assert "params.lr: this key is required" in text
    assert "params.models: unknown key" in text


def test_where_a_section_should_be_its_keys_are_named(tiny_experiment: Write) -> None:
    with pytest.raises(ConfigError) as caught:
        validate_config(load_config(tiny_experiment(), ["data.validation=0.1"]))
    assert "here stands a section of keys, not 0.1; its keys are fraction, episodes," in str(caught.value)


def test_what_two_components_share_is_wrong_once() -> None:
    issues = Issues(LocatedConfig({}))
    for _ in range(2):
        issues.add(("train", "optimizer", "params"), "lr: only with max_lr")
    with pytest.raises(ConfigError, match=r"with 1 error\(s\)"):
        issues.raise_if_any()


def test_a_parameter_that_defaults_brought_in_can_be_taken_back(tiny_experiment: Write) -> None:
    base = tiny_experiment()
    above = base.parent / "above.yaml"
    above.write_text(f"defaults: [{base.name}]\ntrain: {{trainer: {{type: another}}}}\n", encoding="utf-8")

    def receiver(action_horizon: int, n_action_steps: int = 1, integration_steps: int = 1) -> None:
        """Take parameters, but no action_dim."""

    def found(path: Path) -> list[str]:
        issues = Issues(load_located(path))
        params = issues.located.data["train"]["trainer"]["params"]
        validate_parameters(issues, ("train", "trainer", "params"), params, receiver)
        return [str(one) for one in issues.found if one.path[-1] == "action_dim"]

    (plain,), (inherited,) = found(base), found(above)
    assert "params.action_dim: unknown key; " in plain
    assert "takes it back" not in plain
    assert "; `action_dim: null` in above.yaml takes it back (reached by " in inherited
