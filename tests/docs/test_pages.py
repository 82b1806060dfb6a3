"""The code of every page of docs/ runs as it stands there."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from helpers.online_robots import Drift, Publishes, Remembers
from helpers.pages import DOCS, SHOWN, Block, blocks, commands, follow

from trainer.cli import main
from trainer.config.reference import rows
from trainer.config.schemas import ExperimentConfig
from trainer.offline_trainer import main as train_offline
from trainer.offline_trainer import train as train_tiny
from trainer.online.robot import OnlineRobot
from trainer.online.state_manager import PolicyStateManager

PAGES = sorted(
    path.relative_to(DOCS).as_posix()
    for path in DOCS.rglob("*.md")
    if any(block.language not in SHOWN for block in blocks(path.relative_to(DOCS).as_posix()))
)
# These have tests of their own, below and in `tests/entries/test_extensions.py`.
ELSEWHERE = {"dataset.md", "extending.md", "online.md"}
X = """
defaults: [examples/configs/minimal.yaml]
data: { normalization: { action: mean_std }, validation: { fraction: 0.1 } }
train: { callbacks: [{ type: early_stopping, params: { metric: loss } }] }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder is a project in which nothing but the examples is, and X.yaml."""
    shutil.copytree(DOCS.parent / "examples/configs", tmp_path / "examples/configs")
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "X.yaml").write_text(X)
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


def test_the_loop_of_the_page_on_online_runs_hands_in_what_a_robot_did(
    folder: Path, tmp_path: Path, tiny_experiment: Callable[..., Path]
) -> None:
    names, _ = follow("online.md", folder)
    manager, replay = PolicyStateManager(tmp_path / "online"), Remembers()
    train_tiny(tiny_experiment(), callbacks=[Publishes(manager)])

    class Arm(Drift):
        def reset(self) -> dict[str, Any]:
            return super().reset(seed=3)

        def is_over(self) -> bool:
            return self.steps >= 9

        def teleoperated(self) -> np.ndarray | None:
            return np.array([9.0, -9.0]) if self.steps == 4 else None

        def move(self, action: np.ndarray) -> dict[str, Any]:
            return dict(self.step(action).observation)

        def has_reached(self) -> bool:
            return True

    robot = OnlineRobot("arm", device="cpu", manager=manager, replay=replay)
    names["collect"](robot, Arm(), episodes=2)
    assert [len(one.columns["action"]) for one in replay.episodes] == [9, 9]
    assert [one.success for one in replay.episodes] == [True, True]
    assert [np.flatnonzero(one.labelled).tolist() for one in replay.episodes] == [[4], [4]]


@pytest.mark.parametrize("page", [path.relative_to(DOCS).as_posix() for path in sorted(DOCS.rglob("*.md"))])
def test_commands_that_are_only_shown_are_spelled_right(page: str) -> None:
    keys = {re.sub(r"\[\]|\.<name>.*", "", row.split("`")[1]) for row in rows(ExperimentConfig)}
    for block in blocks(page):
        if block.language not in ("sh", "bash"):
            continue
        for words in commands(block):
            program = words[0]
            if program == "torchrun" or words[:2] == ["python", "trainer/offline_trainer.py"]:
                start = words.index("trainer/offline_trainer.py")
                assert check_words(train_offline, words[start + 1 :], block) is not None
            elif program == "trainer":
                check_words(main, words[1:], block)
            for place, word in enumerate(words):
                if word == "--set":
                    key = re.sub(r'\[\d+\]|\."[^"]*"', "", words[place + 1].partition("=")[0])
                    known = key in keys or ".params." in key or key.startswith("params.")
                    assert known, f"docs/{page}, line {block.line}: there is no setting {key}"


def check_words(command: click.Command, words: list[str], block: Block) -> click.Context:
    """Parse the words of a command as it would, without calling it."""
    while isinstance(command, click.Group):
        found = command.get_command(click.Context(command), words[0]) if words else None
        assert found is not None, f"docs/{block.page}, line {block.line}: there is no command {words[:1]}"
        command, words = found, words[1:]
    try:
        return command.make_context(command.name, list(words))
    except click.UsageError as error:
        raise AssertionError(f"docs/{block.page}, line {block.line}: {error.format_message()}") from error
