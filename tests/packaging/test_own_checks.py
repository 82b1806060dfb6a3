"""What the product leaves in its own checkout changes nothing that the checks of the code say."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = '''"""A module whose imports bear the names of folders that training leaves."""

import datasets
import pytest
import runs
import wandb

from trainer import load_policy

print(datasets, pytest, runs, wandb, load_policy)
'''


def ruff(project: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format=concise", "."]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=60, check=False)


def test_results_of_the_product_change_no_order_of_imports(tmp_path: Path) -> None:
    pytest.importorskip("ruff")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "module.py").write_text(CODE)
    done = ruff(tmp_path)
    assert done.returncode == 0, done.stdout
    for folder in ("runs/pusht", "datasets/pusht", "wandb/offline-run"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "kept.py").write_text("import os, sys\n")
    done = ruff(tmp_path)
    assert done.returncode == 0, done.stdout
