"""`trainer diff`: what a configuration would change of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from trainer.cli import main
from trainer.offline_trainer import train

Write = Callable[..., Path]


def call(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["diff", *map(str, arguments)])
    return result.exit_code, result.output


@pytest.fixture
def trained(tiny_experiment: Write) -> tuple[Path, Path]:
    """A run, and the experiment that it trained."""
    path = tiny_experiment(lambda c: c["train"].update(epoch=1, loggers=[]))
    return train(path), path


def test_the_same_settings_differ_in_nothing(trained: tuple[Path, Path]) -> None:
    run, path = trained
    assert call(run, path) == (0, f"Nothing differs from {run / 'epoch_1'}.\n")


def test_what_may_change_and_what_may_not(trained: tuple[Path, Path]) -> None:
    run, path = trained
    code, output = call(run, path, "--set", "train.epoch=4", "--set", "data.num_workers=1")
    assert code == 0, output
    assert output.startswith("May change:\n  data.num_workers  0 → 1\n  train.epoch       1 → 4\n")
    assert output.endswith(f"{run / 'epoch_1'} can go on with these settings.\n")
    code, output = call(run, path, "--set", "train.epoch=4", "--set", "train.ema.decay=0.5")
    assert code == 1
    assert "May not change:\n  train.ema.decay  0.9 → 0.5\nMay change:\n  train.epoch      1 → 4\n" in output


def test_what_it_says_is_what_training_does(trained: tuple[Path, Path]) -> None:
    run, path = trained
    decoder = path.parent / "models/velocity_decoder.yaml"
    decoder.write_text(decoder.read_text().replace("dropout: 0.0", "dropout: 0.1"))
    code, output = call(run, path, "--json", "--set", "data.batch_size=8")
    assert code == 1
    found = json.loads(output)
    assert not found["may_go_on"]
    assert {one["what"]: (one["before"], one["after"], one["is_allowed"]) for one in found["changes"]} == {
        "data.batch_size": (16, 8, True),
        "velocity_decoder: model.graph.modules.decoder.dropout": (0.0, 0.1, False),
        "global batch": (16, 8, False),
        "steps per epoch": (11, 22, False),
    }
    with pytest.raises(
        ValueError, match="the model YAML of 'velocity_decoder', global batch 8 instead of 16"
    ):
        train(path, ["data.batch_size=8", "train.epoch=2"])


def test_more_ranks_with_smaller_batches_are_no_other_run(trained: tuple[Path, Path]) -> None:
    run, path = trained
    code, output = call(run, path, "--ranks", "2", "--set", "data.batch_size=8")
    assert code == 0, output
    assert "May not" not in output


def test_another_save_dir_is_said(trained: tuple[Path, Path]) -> None:
    run, path = trained
    other = path.parent / "other"
    _, output = call(run, path, "--set", f"train.save_dir={other}")
    assert f"Note: the configuration trains into {other}." in output


def test_what_is_not_there(trained: tuple[Path, Path], tmp_path: Path) -> None:
    run, path = trained
    assert call(tmp_path / "gone", path) == (2, f"Error: there is no folder {tmp_path / 'gone'}\n")
    assert call(run, path, "--set", "train.epochs=2")[0] == 2
