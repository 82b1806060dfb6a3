"""A checkpoint from elsewhere runs no code that was not installed or trusted."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from helpers.checkpoints import seal

from trainer.checkpoint.folder import MANIFEST, CheckpointError
from trainer.cli import main
from trainer.deployment.robot_policy import load_policy
from trainer.offline_trainer import train
from trainer.registry import PluginError, load_trusted_plugins

Write = Callable[..., Path]
EVIL = "import pathlib\npathlib.Path({!r}).touch()\ndef register(registry): ...\nclass Net: ...\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path) -> Path:
    from helpers.tiny_experiment import decoder_yaml, encoder_yaml, experiment

    folder = tmp_path_factory.mktemp("trained")
    (folder / "models").mkdir()
    for name, text in (("observation_encoder", encoder_yaml()), ("velocity_decoder", decoder_yaml())):
        (folder / f"models/{name}.yaml").write_text(yaml.safe_dump(text))
    config = experiment(folder / "run", tiny_dataset)
    config["train"].update(epoch=1, loggers=[])
    (folder / "experiment.yaml").write_text(yaml.safe_dump(config))
    return train(folder / "experiment.yaml")


@pytest.fixture
def stolen(run: Path, tmp_path: Path) -> Path:
    """A checkpoint that brings a module along, which leaves a trace where it is imported."""
    folder = tmp_path / "epoch_1"
    shutil.copytree(run / "epoch_1", folder)
    (folder / "evil_plugin.py").write_text(EVIL.format(str(tmp_path / "ran")))
    return folder


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = yaml.safe_load(path.read_text())
    change(data)
    path.write_text(yaml.safe_dump(data) if path.suffix == ".yaml" else json.dumps(data))


def name_the_plugin(folder: Path) -> None:
    edit(folder / "config.yaml", lambda c: c["plugins"].append("evil_plugin"))
    seal(folder)
    edit(folder / MANIFEST, lambda m: m.update(project=str(folder)))


def import_in_the_model(folder: Path) -> None:
    def change(model: dict[str, Any]) -> None:
        model["imports"] = ["evil_plugin"]
        model["settings"] = {"allow_imports": True, "allowed_import_prefixes": ["evil_plugin"]}

    edit(folder / "models/velocity_decoder.yaml", change)
    seal(folder)


def target_in_the_model(folder: Path) -> None:
    def change(model: dict[str, Any]) -> None:
        model["settings"] = {"allow_target": True, "allowed_import_prefixes": ["evil_plugin", "os"]}
        model["model"]["graph"]["modules"]["decoder"] = {"_target_": "evil_plugin.Net"}

    edit(folder / "models/velocity_decoder.yaml", change)
    seal(folder)


@pytest.mark.parametrize("attack", [name_the_plugin, import_in_the_model, target_in_the_model])
def test_what_a_checkpoint_names_is_not_run(
    stolen: Path, attack: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    attack(stolen)
    before = list(sys.path)
    monkeypatch.chdir(stolen)
    with pytest.raises(CheckpointError, match="trust"):
        load_policy(stolen, device="cpu")
    assert sys.path == before
    assert "evil_plugin" not in sys.modules
    assert not (stolen.parent / "ran").exists()


def test_nor_by_the_command_that_evaluates_it(stolen: Path) -> None:
    name_the_plugin(stolen)
    result = CliRunner().invoke(main, ["evaluate", str(stolen), "--env", "pusht"])
    assert result.exit_code == 2
    assert "trust=['evil_plugin']" in result.output
    assert not (stolen.parent / "ran").exists()


def test_the_caller_can_trust_a_package_of_his_own(
    stolen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name_the_plugin(stolen)
    own = tmp_path / "own"
    own.mkdir()
    (own / "evil_plugin.py").write_text(EVIL.format(str(tmp_path / "own_ran")))
    with pytest.raises(CheckpointError, match="evil_plugin"):
        load_policy(stolen, device="cpu", trust=["evil_plugin"])  # trusted, and nowhere on the path
    monkeypatch.syspath_prepend(str(own))
    try:
        load_policy(stolen, device="cpu", trust=["evil_plugin"])
    finally:
        sys.modules.pop("evil_plugin", None)
    assert (tmp_path / "own_ran").exists()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["os.path.", "..trainer", "trainer_evil", "experiment_training..x", 3])
def test_names_that_only_look_trusted(name: Any) -> None:
    with pytest.raises(PluginError, match="is not trusted"):
        load_trusted_plugins([name])
