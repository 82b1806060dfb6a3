"""Sizes that do not fit the dataset are told where they are written, before a forward pass."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from trainer.config.errors import ConfigError, ConfigValidationIssue
from trainer.config.loader import load_located
from trainer.engine.build_data import build_data
from trainer.engine.check import check
from trainer.engine.outline import outline
from trainer.offline_trainer import train

Write = Callable[..., Path]
Config = dict[str, Any]


def change_model(path: Path, name: str, change: Callable[[Config], None]) -> Path:
    """Change a model YAML beside an experiment and return it."""
    model = path.parent / f"models/{name}.yaml"
    config = yaml.safe_load(model.read_text())
    change(config["model"]["graph"])
    model.write_text(yaml.safe_dump(config, sort_keys=False))
    return model


def line_of(path: Path, text: str) -> int:
    return 1 + next(i for i, line in enumerate(path.read_text().splitlines()) if text in line)


def mistakes(path: Path) -> list[ConfigValidationIssue]:
    with pytest.raises(ConfigError) as caught:
        build_data(check(load_located(path)))
    return caught.value.issues


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("action_dim", 7, "the dataset's action has 2"),
        ("action_horizon", 6, "the dataset's action chunks have 4"),
    ],
)
def test_a_size_of_a_component_is_told_in_its_model_yaml(
    tiny_experiment: Write, name: str, value: int, says: str
) -> None:
    path = tiny_experiment()
    model = change_model(
        path, "velocity_decoder", lambda graph: graph["modules"]["decoder"].update({name: value})
    )
    (found,) = mistakes(path)
    assert found.error_message == f"{name} of component 'velocity_decoder' is {value}, {says}"
    assert found.location is not None
    assert (found.location.file, found.location.line) == (str(model), line_of(model, f"{name}: {value}"))


def test_the_sizes_of_the_trainer_are_those_of_the_data(tiny_experiment: Write) -> None:
    def change(config: Config) -> None:
        config["train"]["trainer"]["params"].update(action_dim=7, action_horizon=8)

    path = tiny_experiment(change)
    found = mistakes(path)
    assert [one.error_message for one in found] == [
        "action_horizon is 8, the dataset's action chunks have 4",
        "action_dim is 7, the dataset's action has 2",
    ]
    assert [one.location.line for one in found if one.location] == [
        line_of(path, "      action_horizon: 8"),
        line_of(path, "action_dim: 7"),
    ]


def test_a_component_may_have_a_part_of_an_action(tiny_experiment: Write) -> None:
    path = tiny_experiment()
    change_model(path, "velocity_decoder", lambda graph: graph["modules"]["decoder"].update(action_dim=1))
    build_data(check(load_located(path)))


def test_a_graph_input_without_an_observation_is_told_where_it_is_declared(tiny_experiment: Write) -> None:
    path = tiny_experiment()

    def change(graph: Config) -> None:
        graph["inputs"] = ["joints"]
        graph["nodes"][0]["args"] = ["$joints"]

    model = change_model(path, "observation_encoder", change)
    with pytest.raises(ConfigError, match="graph input 'joints' has no observation") as caught:
        train(path)
    (found,) = caught.value.issues
    assert found.error_path == "model.component_config_paths.observation_encoder"
    assert found.location is not None
    assert (found.location.file, found.location.line) == (str(model), line_of(model, "- joints"))


def test_layers_that_do_not_fit_are_told_at_their_step(tiny_experiment: Write) -> None:
    path = tiny_experiment()
    model = change_model(
        path,
        "observation_encoder",
        lambda graph: graph["modules"]["embedding"].update(dims=[11, 16]),
    )
    with pytest.raises(ConfigError, match=r"the first forward pass fails: .*step 'condition'") as caught:
        train(path)
    (found,) = caught.value.issues
    assert found.location is not None
    assert (found.location.file, found.location.line) == (str(model), line_of(model, "name: condition"))


def test_the_step_is_found_in_a_folder_with_a_space(tiny_experiment: Write) -> None:
    path = tiny_experiment()
    spaced = shutil.copytree(path.parent, path.parent / "my experiments: 1") / path.name
    model = change_model(
        spaced, "observation_encoder", lambda graph: graph["modules"]["embedding"].update(dims=[11, 16])
    )
    with pytest.raises(ConfigError, match="the first forward pass fails") as caught:
        train(spaced)
    (found,) = caught.value.issues
    assert found.location is not None
    assert (found.location.file, found.location.line) == (str(model), line_of(model, "name: condition"))


def test_what_does_not_fit_is_found_without_a_number(tiny_experiment: Write) -> None:
    path = tiny_experiment()
    model = change_model(
        path, "observation_encoder", lambda graph: graph["modules"]["embedding"].update(dims=[11, 16])
    )
    checked = check(load_located(path))
    with pytest.raises(ConfigError, match=r"the first forward pass fails: .*same reduction dim") as caught:
        outline(checked, build_data(checked))
    (found,) = caught.value.issues
    assert found.location is not None
    assert (found.location.file, found.location.line) == (str(model), line_of(model, "name: condition"))


def test_an_input_that_its_file_declares_otherwise_is_told_there(tiny_experiment: Write) -> None:
    path = tiny_experiment()
    change_model(
        path, "observation_encoder", lambda graph: graph["modules"]["embedding"].update(dims=[10, 24])
    )
    model = path.parent / "models/velocity_decoder.yaml"
    model.write_text(f"{model.read_text()}shapes:\n  condition: [B, 16]\n")
    checked = check(load_located(path))
    says = (
        r"'condition' comes as \[\d+, 24\], and the `shapes` here say \[B, 16\]; the first forward pass fails"
    )
    with pytest.raises(ConfigError, match=says) as caught:
        outline(checked, build_data(checked))
    (found,) = caught.value.issues
    assert found.error_path == "model.component_config_paths.velocity_decoder"
    assert found.location is not None
    assert (found.location.file, found.location.line) == (str(model), line_of(model, "condition: [B"))
    with pytest.raises(ConfigError, match=says):
        train(path)
