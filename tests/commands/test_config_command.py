"""`trainer config`: the resolved configuration and where each value came from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from trainer.cli import main

Write = Callable[..., Path]


def call(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["config", *map(str, arguments)])
    return result.exit_code, result.output


@pytest.fixture
def layered(tiny_experiment: Write, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An experiment that builds on the small one, with a variable in it."""
    base = tiny_experiment(name="base")
    monkeypatch.chdir(base.parent)
    monkeypatch.setenv("CONFIG_TEST_EPOCHS", "5")
    text = "defaults: [base.yaml]\ntrain:\n  epoch: ${env:int:CONFIG_TEST_EPOCHS}\n  log_every_n_steps: 8\n"
    (base.parent / "own.yaml").write_text(text)
    return Path("own.yaml")


def test_every_value_is_printed_with_its_place_as_yaml_that_reads_back(layered: Path) -> None:
    code, output = call(layered, "--set", "data.batch_size=8")
    assert code == 0, output
    comments = {
        line.split("  # ")[0].strip(): line.split("  # ")[1] for line in output.splitlines() if "  # " in line
    }
    assert comments["batch_size: 8"] == "--set data.batch_size=8"
    assert comments["epoch: 5"] == "own.yaml:3:10, from environment variable CONFIG_TEST_EPOCHS"
    assert comments["log_every_n_steps: 8"] == "own.yaml:4:22"
    seed = next(
        n for n, line in enumerate(Path("base.yaml").read_text().splitlines(), 1) if line == "seed: 7"
    )
    assert comments["seed: 7"] == f"base.yaml:{seed}:7"
    assert comments["num_workers: 0"] == "default"
    assert comments["weight_decay: 0.0"] == "default"  # of the optimizer, which the plugin registers
    assert "# base.yaml is reached by own.yaml" in output
    assert yaml.safe_load(output)["train"]["epoch"] == 5


def test_what_is_given_can_be_printed_alone(layered: Path) -> None:
    _, output = call(layered, "--given")
    assert "num_workers" not in output
    given = yaml.safe_load(output)
    own = yaml.safe_load(Path("base.yaml").read_text())
    own["train"].update(epoch=5, log_every_n_steps=8)
    assert given == own


def test_programs_get_the_places_apart(layered: Path) -> None:
    code, output = call(layered, "--json", "--set", "train.seed=3")
    assert code == 0
    found = json.loads(output)
    assert found["config"]["train"]["seed"] == 3
    assert found["origins"]["train.seed"] == {"from": "command line", "override": "train.seed=3"}
    assert found["origins"]["train.epoch"] == {
        "from": "file",
        "file": "own.yaml",
        "line": 3,
        "column": 10,
        "filled_from": ["environment variable CONFIG_TEST_EPOCHS"],
    }
    assert found["origins"]["seed"]["reached_by"] == ["own.yaml"]
    assert found["origins"]["data.num_workers"] == {"from": "default"}


def test_mistakes_end_it_with_two(layered: Path) -> None:
    code, output = call(layered, "--set", "train.epochs=3", "--set", "data.batch_size=0")
    assert code == 2
    assert "2 error(s)" in output
