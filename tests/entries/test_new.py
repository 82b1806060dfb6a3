"""What `trainer new` writes works as it is: its own tests pass, and a project trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from trainer.cli import main

ROOT = Path(__file__).parents[2]


def call(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, list(arguments))
    return result.exit_code, result.output


def run(folder: Path, *arguments: str) -> str:
    """Run a Python module in a folder, as a user does who has installed the package."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "policy_constructor")])
    environment = {**os.environ, "PYTHONPATH": paths, "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_tests_of_every_part_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for kind in ("dataset", "policy", "trainer", "loss", "optimizer", "block"):
        code, said = call("new", kind, f"my_{kind}")
        assert code == 0
        assert f"Written: my_{kind}.py\nWritten: test_my_{kind}.py\n" in said
        assert f"my_{kind}" in said.partition("YAML:")[2]
    said = run(tmp_path, "pytest", "-q", "-p", "no:cacheprovider")
    assert "14 passed" in said


@pytest.mark.slow
def test_a_project_passes_its_tests_and_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("new", "project", "pick_cups")[0] == 0
    project = tmp_path / "pick_cups"
    assert "passed" in run(project, "pytest", "-q", "-p", "no:cacheprovider")
    short = ["train.epoch=null", "train.max_steps=2", "train.optimizer.params.warmup_steps=1"]
    options = [word for one in short for word in ("--set", one)]
    run(project, "trainer.cli", "train", "train.yaml", *options)
    assert len((project / "runs/pick_cups/metrics.jsonl").read_text().splitlines()) == 2
    assert json.loads((project / "runs/pick_cups/run.json").read_text())["finished"]
    monkeypatch.chdir(project)  # where a loss of one's own is what the policy is trained with
    assert call("new", "loss", "my_loss")[0] == 0
    yaml = (project / "train.yaml").read_text().replace("plugins:\n", "plugins:\n  - my_loss\n")
    loss = "train:\n  loss: {{ type: my_loss, params: {{ threshold: {} }} }}\n"
    first = []
    for threshold in (1.0, 0.01):
        text = yaml.replace("train:\n", loss.format(threshold)).replace("runs/", f"runs-{threshold}/")
        (project / "train.yaml").write_text(text)
        run(project, "trainer.cli", "train", "train.yaml", *options)
        lines = (project / f"runs-{threshold}/pick_cups/metrics.jsonl").read_text().splitlines()
        first.append(json.loads(lines[0])["total"])
    assert first[0] > 2 * first[1]


def test_a_block_is_used_as_its_message_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from model_constructor import build_model

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    _, said = call("new", "block", "my_residual")
    lines = [line for line in said.splitlines() if line.startswith(("imports", "settings"))]
    layers = "model: { sequential: { layers: [{ _type_: my_residual, dim: 8 }] } }"
    (tmp_path / "model.yaml").write_text("\n".join(["schema_version: 1", *lines, layers]))
    assert sum(p.numel() for p in build_model(tmp_path / "model.yaml").parameters()) == 2 * 8 + 2 * (64 + 8)


def test_what_is_written_is_formatted_as_this_repository_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("new", "project", "pick_cups")[0] == 0
    for kind in ("trainer", "loss", "optimizer", "block"):
        assert call("new", kind, f"my_{kind}")[0] == 0
    files = sorted(tmp_path.rglob("*.py"))
    assert [f.name for f in files for line in f.read_text().splitlines() if len(line) > 110] == []
    assert [f.name for f in tmp_path.rglob("*") if f.is_file() and "__N" in f.read_text()] == []
    for file in files:
        compile(file.read_text(), str(file), "exec")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("my-loss", "cannot be the name of a module"),
        ("MyLoss", "cannot be the name of a module"),
        ("2loss", "cannot be the name of a module"),
        ("class", "cannot be the name of a module"),
        ("json", "is the name of a module that is there already"),
        ("torch", "is the name of a module that is there already"),
        ("trainer", "is the name of a module that is there already"),
        ("test_loss", "would be taken for a test"),
    ],
)
def test_names_that_would_not_work(
    name: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = call("new", "loss", name)
    assert code == 2
    assert f"Error: '{name}' {why}" in said
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_my_loss.py").write_text("mine")
    code, said = call("new", "loss", "my_loss")
    assert (code, said) == (2, "Error: test_my_loss.py is there already; nothing was written\n")
    assert [p.name for p in tmp_path.iterdir()] == ["test_my_loss.py"]
