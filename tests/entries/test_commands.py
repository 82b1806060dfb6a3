"""The console command, as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from helpers.runs import environment

from trainer.cli import main

Write = Callable[..., Path]


def call(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    return result.exit_code, result.output


def test_help_names_every_command() -> None:
    code, output = call("--help")
    assert code == 0
    assert all(name in output for name in ("record", "train", "evaluate", "report", "model"))


def test_train_then_report_from_the_experiment_alone(tiny_experiment: Write) -> None:
    path = tiny_experiment()
    code, output = call("train", path, "--set", "train.epoch=1")
    assert code == 0
    assert output.strip().endswith(f"Trained: {path.parent / 'run'}")
    code, output = call("report", path)
    assert (code, output.strip()) == (0, f"Report: {path.parent / 'run/report.html'}")
    page = (path.parent / "run/report.html").read_text(encoding="utf-8")
    assert "observation_encoder" in page


def test_a_checkpoint_that_is_not_there_is_said_in_one_sentence(tmp_path: Path) -> None:
    code, output = call("evaluate", tmp_path / "gone", "--env", "pusht")
    assert (code, output) == (2, f"Error: there is no folder {tmp_path / 'gone'}\n")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["data", "inspect", "~nobody-x/y"], "~nobody-x/y: there is no such folder"),
        (["data", "convert", "~nobody-x/y", "--to", "z"], "~nobody-x/y: there is no such file or folder"),
        (["record", "--train_config", "~nobody-x/y.yaml"], "config file not found: ~nobody-x/y.yaml"),
        (["evaluate", "~nobody-x/run", "--env", "pusht"], "there is no folder ~nobody-x/run"),
    ],
)
def test_the_home_of_a_user_who_is_not_there(command: list[str], said: str) -> None:
    assert call(*command) == (2, f"Error: {said}\n")


def test_a_damaged_checkpoint_is_refused(tiny_experiment: Write) -> None:
    path = tiny_experiment()
    assert call("train", path)[0] == 0
    weights = path.parent / "run/epoch_2/velocity_decoder.pt"
    weights.write_bytes(weights.read_bytes()[:-10])
    code, output = call("evaluate", path, "--env", "pusht")
    assert code == 2
    assert "velocity_decoder.pt is damaged" in output


@pytest.mark.parametrize("missing", ["--env", "--out"])
def test_record_says_what_it_needs(missing: str, tmp_path: Path) -> None:
    given = {"--env": "metaworld/reach-v3", "--out": tmp_path / "x"}
    del given[missing]
    code, output = call("record", *[x for pair in given.items() for x in pair])
    assert code == 2
    assert "--train_config" in output


def test_record_makes_the_dataset_of_an_experiment(tmp_path: Path) -> None:
    pytest.importorskip("metaworld")
    config = yaml.safe_load(Path("examples/configs/metaworld_pick_place.yaml").read_text())
    config["data"]["recording"] = {"env": "metaworld/reach-v3", "episodes": 2, "seed": 5}
    config["data"]["datamodule"]["params"]["root"] = "sets/reach"
    path = tmp_path / "reach.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    assert call("record", "--train_config", path)[0] == 0
    info = json.loads((tmp_path / "sets/reach/meta/info.json").read_text())
    assert info["total_episodes"] == 2
    assert info["trainer"]["seed"] == 5


def test_an_experiment_without_recording_cannot_be_recorded(tiny_experiment: Write) -> None:
    code, output = call("record", "--train_config", tiny_experiment())
    assert code == 2
    assert "has no section data.recording" in output


def test_a_run_with_another_folder_is_found_by_the_same_override(tiny_experiment: Write) -> None:
    path = tiny_experiment(lambda c: c["train"].update(epoch=1, loggers=[]))
    other = f"train.save_dir={path.parent / 'other'}"
    assert call("train", path, "--set", other)[0] == 0
    code, output = call("report", path)
    assert code == 2
    assert f"{path} trains into {path.parent / 'run'}, and there is no such folder" in output
    assert "--set train.save_dir=" in output
    code, output = call("report", path, "--set", other)
    assert (code, output.strip()) == (0, f"Report: {path.parent / 'other/report.html'}")
    code, output = call("report", path.parent / "other", "--set", other)
    assert code == 2
    assert "--set has no effect with" in output


def test_a_run_that_is_done_says_so(tiny_experiment: Write, caplog: pytest.LogCaptureFixture) -> None:
    path = tiny_experiment(lambda c: c["train"].update(epoch=1, loggers=[]))
    assert call("train", path)[0] == 0
    with caplog.at_level("INFO"):
        code, output = call("train", path)
    assert code == 0
    assert "11/11" not in output, "no bar of a training that does not happen"
    assert f"{path.parent / 'run'} is done already, after 11 updates" in caplog.text
    assert "raise train.epoch or train.max_steps" in caplog.text


def test_record_takes_overrides_of_its_experiment_only(tiny_experiment: Write, tmp_path: Path) -> None:
    code, output = call("record", "--env", "pusht", "--out", tmp_path / "x", "--set", "seed=3")
    assert code == 2
    assert "--set has no effect without --train_config" in output
    code, output = call("record", "--train_config", tiny_experiment(), "--set", "data.recording.episode=3")
    assert code == 2
    assert "data.recording.episode: unknown key; did you mean 'episodes'?" in output


def test_commands_for_data_name_each_other(tiny_dataset: Path, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    code, output = call("data", "convert", tiny_dataset, "--to", tmp_path / "x")
    assert code == 2
    assert (
        f"this is a LeRobot dataset already; look at it with `trainer data inspect {tiny_dataset}`" in output
    )
    source = tmp_path / "lift.hdf5"
    with h5py.File(source, "w") as file:
        file.create_group("data")
    code, output = call("data", "inspect", source)
    assert code == 2
    assert f"robomimic_hdf5; `trainer data convert {source} --to FOLDER` makes one" in output


@pytest.mark.parametrize("own", [True, False])
def test_a_shipped_model_is_shown_from_any_folder(own: bool, tmp_path: Path) -> None:
    """By its name, or built upon; in a process of its own, which no other command has prepared."""
    shipped = "experiment_models/diffusion_policy/pusht/noise_predictor.yaml"
    (tmp_path / "mine.yaml").write_text(f"schema_version: 1\ndefaults: [{shipped}]\n")
    command = [
        sys.executable,
        "-m",
        "trainer.cli",
        "model",
        "show",
        "mine.yaml" if own else shipped,
        "--json",
    ]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["modules"]
