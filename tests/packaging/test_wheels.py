"""Both wheels, installed: a robot acts with the base alone, the extra `train` trains what is shipped."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

from trainer import __version__, load_policy
from trainer.offline_trainer import train
from trainer.utils.import_utils import TRAINING_LIBRARIES

ROOT = Path(__file__).parents[2]
OURS = ("policy-constructor", "trainer-il")
SOURCES = ("trainer", "experiment_training", "experiment_models", "examples", "policy_constructor")
ROBOT = """
import json, socket, sys

def refuse(*args, **kwargs):
    raise OSError("a robot has no network")

socket.socket.connect = socket.getaddrinfo = refuse

import numpy as np
from trainer import load_policy

policy = load_policy(sys.argv[1], device="cpu")
policy.reset(3)
actions = [policy.act({"observation.state": np.full(5, i, np.float32)}).tolist() for i in range(5)]
print(json.dumps({"actions": actions, "modules": sorted({name.partition(".")[0] for name in sys.modules})}))
"""


def run(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of the new environment; nothing of this checkout is on its path."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    env.update(OMP_NUM_THREADS="1", WANDB_MODE="disabled")
    return subprocess.run(
        [str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build both wheels from a copy of the sources, so that nothing is left here."""
    work = tmp_path_factory.mktemp("build")
    left_out = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for name in SOURCES:
        shutil.copytree(ROOT / name, work / name, ignore=left_out)
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, work / name)
    wheel = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", "dist"]
    built = run(*wheel, "./policy_constructor", ".", cwd=work)
    assert built.returncode == 0, built.stderr
    found = {path.name.split("-")[0].replace("_", "-"): path for path in (work / "dist").glob("*.whl")}
    assert sorted(found) == sorted(OURS)
    return found


class Environment:
    """A virtual environment with our two wheels, and with those libraries of this one that it is given."""

    def __init__(self, folder: Path, wheels: Iterable[Path]) -> None:
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        self.python = folder / "bin/python"
        (self.packages,) = folder.glob("lib/python*/site-packages")
        self.pip("install", "-q", "--no-deps", "--no-index", *wheels)

    def pip(self, *arguments: object) -> str:
        done = run(sys.executable, "-m", "pip", "--python", self.python, *arguments, cwd=self.folder)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def lend(self, extra: str = "") -> None:
        """Link what our wheels require, and what that requires in turn, from this environment."""
        wanted = [(name, extra) for name in OURS]
        seen = set(wanted)
        while wanted:
            name, asked = wanted.pop()
            own = [self.packages] if name in OURS else None
            (found,) = importlib.metadata.distributions(name=name, path=list(map(str, own or sys.path)))
            for text in found.requires or ():
                need = Requirement(text)
                if need.marker is None or need.marker.evaluate({"extra": asked}):
                    wanted += {(canonical(need.name), e) for e in (need.extras or {""})} - seen
                    seen |= set(wanted)
            if name not in OURS:
                self._link(found)

    def _link(self, found: importlib.metadata.Distribution) -> None:
        for file in found.files or ():
            top = self.packages / file.parts[0]
            if file.parts[0] not in ("..", "__pycache__") and not top.exists():
                top.symlink_to(Path(str(found.locate_file(file.parts[0]))))


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_wheels_hold_what_they_need(wheels: dict[str, Path]) -> None:
    names = {key: set(zipfile.ZipFile(path).namelist()) for key, path in wheels.items()}
    assert "model_constructor/py.typed" in names["policy-constructor"]
    expected = {
        f.relative_to(ROOT).as_posix() for folder in SOURCES[:-1] for f in (ROOT / folder).rglob("*.yaml")
    }
    assert expected
    assert {"trainer/py.typed", "trainer/pages/parts/assets/style.css", *expected} <= names["trainer-il"]
    assert {name.split("/")[0] for name in names["trainer-il"]} == {
        *SOURCES[:-1],
        f"trainer_il-{__version__}.dist-info",
    }
    assert {path.name.split("-")[1] for path in wheels.values()} == {__version__}


@pytest.mark.slow
def test_a_robot_acts_without_the_libraries_of_training(
    wheels: dict[str, Path], tiny_experiment: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = train(tiny_experiment())
    robot = Environment(tmp_path / "robot", wheels.values())
    robot.lend()
    robot.pip("check")  # all that the base declares is there, …
    lent = {
        canonical(d.metadata["Name"]) for d in importlib.metadata.distributions(path=[str(robot.packages)])
    }
    assert "torch" in lent
    # … and nothing of training.
    assert not lent & {"wandb", "ray", "tqdm", "pyarrow", "av", "pillow"}

    # Away from the run's own project, as on another machine.
    moved = shutil.copytree(checkpoint / "epoch_2", tmp_path / "elsewhere/epoch_2")
    done = run(robot.python, "-c", ROBOT, moved, cwd=tmp_path / "elsewhere")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert not set(said["modules"]) & {*TRAINING_LIBRARIES, "ray"}
    here = load_policy(moved, device="cpu")
    here.reset(3)
    acted = [here.act({"observation.state": np.full(5, i, np.float32)}) for i in range(5)]
    np.testing.assert_allclose(said["actions"], np.stack(acted), rtol=1e-6)

    refused = run(robot.folder / "bin/trainer", "train", "examples/configs/minimal.yaml", cwd=tmp_path)
    assert refused.returncode == 2
    assert re.fullmatch(
        r"Error: This command needs \w+, .*pip install 'trainer-il\[train\]'\n", refused.stderr
    )


@pytest.mark.slow
def test_an_installed_package_trains_what_is_shipped(wheels: dict[str, Path], tmp_path: Path) -> None:
    environment = Environment(tmp_path / "environment", wheels.values())
    environment.lend("train")
    environment.pip("check")
    work = tmp_path / "work"
    work.mkdir()
    trainer = environment.folder / "bin/trainer"
    done = run(
        trainer,
        "train",
        "examples/configs/minimal.yaml",
        "--set",
        "train.epoch=1",
        "--set",
        "train.save_every=1",
        cwd=work,
    )
    assert done.returncode == 0, done.stderr
    assert (work / "runs/minimal/epoch_1/action_head.pt").exists()
    assert [path.name for path in work.iterdir()] == ["runs"]

    own = work / "own.yaml"
    own.write_text(
        "defaults:\n  - base: examples/configs/metaworld_pick_place.yaml\n"
        "data:\n  datamodule: {params: {root: nowhere}}\n"
    )
    missing = run(trainer, "train", own, cwd=work)
    assert missing.returncode == 2
    # The shipped model YAMLs are found; what is missing is the data alone.
    assert "there is no dataset" in missing.stderr
    assert "component YAML" not in missing.stderr
