"""The code of every page of docs/ runs as it stands there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers.pages import DOCS, SHOWN, blocks, follow

PAGES = sorted(
    path.relative_to(DOCS).as_posix()
    for path in DOCS.rglob("*.md")
    if any(block.language not in SHOWN for block in blocks(path.relative_to(DOCS).as_posix()))
)
# The first two have tests of their own (below, and `tests/entries/test_extensions.py`); others take hours.
ELSEWHERE = {"dataset.md", "extending.md", "results.md", "experiments/README.md", "model_language_fuzz.md"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder is a project in which nothing but the examples is."""
    shutil.copytree(DOCS.parent / "examples/configs", tmp_path / "examples/configs")
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p not in ELSEWHERE and any(b.language not in SHOWN for b in blocks(p))]
)
def test_what_a_page_says_works(page: str, folder: Path) -> None:
    follow(page, folder)


def test_the_page_on_datasets_ends_with_a_policy_that_has_learned(folder: Path) -> None:
    pytest.importorskip("h5py")
    _, said = follow("dataset.md", folder)
    assert "20 episodes" in said
    assert (folder / "runs/reach/report.html").is_file()
