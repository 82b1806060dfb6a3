"""The catalogue of wrong configurations: files to write, and the sentences that are due."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).parents[1] / "config/catalogue/catalogue.yaml"
MARK = "«"
"""Stands in the text of a case where the mistake is to be found; it is not written into the file."""


@dataclass(frozen=True)
class Case:
    """One wrong configuration.

    Attributes:
        name: what is wrong.
        group: `experiment`, `defaults`, `model`, `command line` or `environment`.
        files: name → text.
        overrides: texts of `--set`.
        environment: variables.
        places: `file:line:column` of the marks, in the order of files and lines.
        says: what is to be said at these places, without place and chain; texts that begin with `--set` or
            `=` have no place in a file.
        warns: the warnings that are due where nothing is wrong.
    """

    name: str
    group: str
    files: Mapping[str, str]
    overrides: Sequence[str]
    environment: Mapping[str, str]
    places: Sequence[str]
    says: Sequence[str]
    warns: Sequence[str]


def load_cases() -> list[Case]:
    """Read the catalogue."""
    raw = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return [_case(raw["files"], group, entry) for group, entries in raw["cases"].items() for entry in entries]


def load_chains() -> dict[str, str]:
    """Return file → how it is reached."""
    chains: dict[str, str] = yaml.safe_load(FILE.read_text(encoding="utf-8"))["chains"]
    return chains


def _case(base: Mapping[str, str], group: str, entry: Mapping[str, Any]) -> Case:
    files = dict(base)
    for name, old, new in entry.get("edit", ()):
        text = files.get(name, "")
        if text.count(old) != 1 and old:
            raise AssertionError(f"{entry['name']}: {old!r} stands {text.count(old)} times in {name}")
        files[name] = text.replace(old, new) if old else new
    places = sorted(
        (name, number, column + 1)
        for name, text in files.items()
        for number, line in enumerate(text.split("\n"), 1)
        for column in _marks(line)
    )
    return Case(
        name=entry["name"],
        group=group,
        files={name: text.replace(MARK, "") for name, text in files.items()},
        overrides=entry.get("set", ()),
        environment=entry.get("env", {}),
        places=[f"{name}:{line}:{column}" for name, line, column in places],
        says=entry.get("says", ()),
        warns=entry.get("warns", ()),
    )


def _marks(line: str) -> list[int]:
    """Return the columns of the marks, counted without them."""
    found = [column for column, letter in enumerate(line) if letter == MARK]
    return [column - before for before, column in enumerate(found)]


def write_case(case: Case, folder: Path) -> None:
    """Write the files of a case."""
    for name, text in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
