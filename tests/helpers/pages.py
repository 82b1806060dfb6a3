"""Running the code of a page of docs/, as a reader would: top to bottom, in an empty folder."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner

from trainer.cli import main
from trainer.commands.experiments import read_experiment
from trainer.config.errors import ConfigError
from trainer.config.schemas import ExperimentConfig

DOCS = Path(__file__).parents[2] / "docs"
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
_FILE = re.compile(r"# file: (\S+)")
SHOWN = ("sh", "text", "")
"""What is shown and not run: commands that need other machines, and what programs print."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `line` is where it begins."""

    page: str
    line: int
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The file that a reader makes of it."""
        found = _FILE.match(self.text)
        return found[1] if found else None


def blocks(page: str) -> list[Block]:
    """Return the code of a page."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return [
        Block(page, text[: match.start()].count("\n") + 1, match[1], match[2])
        for match in _BLOCK.finditer(text)
    ]


def commands(block: Block) -> list[list[str]]:
    """Return the words of every command of a shell block."""
    lines = block.text.replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [one for one in words if one]


def follow(page: str, folder: Path) -> tuple[dict[str, Any], str]:
    """Do everything that a page says, in `folder`, which is the current one.

    Blocks that name a file are written to it; Python is executed, all of a page in one module; commands of
    `bash` blocks are called; other YAML is held against the schema. Blocks of `SHOWN` are left out.

    Returns:
        The names that the page's Python has, and all that its commands printed.
    """
    names: dict[str, Any] = {"__name__": "page"}
    said = []
    for block in blocks(page):
        where = f"docs/{page}, line {block.line}"
        if block.language in SHOWN:
            continue
        if block.file is not None:
            target = folder / block.file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            exec(compile(block.text, where, "exec"), names)
        elif block.language == "bash":
            said += [call(words, where) for words in commands(block)]
        elif block.language == "yaml":
            check_fragment(yaml.safe_load(block.text), where)
        else:
            raise AssertionError(f"{where}: nobody knows how to run `{block.language}`")
    return names, "\n".join(said)


def check_fragment(fragment: Any, where: str) -> None:
    """Hold a part of an experiment YAML against the schema, within an experiment that has all sections."""
    if not isinstance(fragment, dict) or not set(fragment) <= set(ExperimentConfig.model_fields):
        return  # of a model YAML, or of a list in one
    base = DOCS.parent / "examples/configs/metaworld_push_online.yaml"
    try:
        read_experiment(base, [f"{path}={json.dumps(value)}" for path, value in leaves(fragment)])
    except ConfigError as error:
        raise AssertionError(f"{where}: {error}") from error


def leaves(fragment: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what `--set` would be given for each value of a fragment."""
    for key, value in fragment.items():
        path = above + (f'"{key}"' if "." in key else key)
        if isinstance(value, dict) and value and "type" not in value:
            yield from leaves(value, f"{path}.")
        else:
            yield path, value


def call(words: list[str], where: str) -> str:
    """Call one command and return what it printed; it must succeed."""
    if words[0] == "trainer":
        result = CliRunner().invoke(main, words[1:])
        assert result.exit_code == 0, f"{where}: {' '.join(words)}\n{result.output}\n{result.exception!r}"
        return result.output
    assert words[0] in ("python", "pytest"), (
        f"{where}: {words[0]} is not called by the tests; mark the block `sh`"
    )
    program = [sys.executable, *(["-m"] if words[0] == "pytest" else []), *words[words[0] == "python" :]]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 0, f"{where}: {' '.join(words)}\n{done.stdout}{done.stderr}"
    return done.stdout
