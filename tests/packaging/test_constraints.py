"""The pinned versions fit each other under every Python that is promised, as far as installed ones tell."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

packaging = pytest.importorskip("packaging.requirements")
from packaging.requirements import Requirement  # noqa: E402
from packaging.specifiers import SpecifierSet  # noqa: E402
from packaging.utils import canonicalize_name  # noqa: E402

ROOT = Path(__file__).parents[2]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


def pins(python: str) -> dict[str, str]:
    """Return distribution → version that is pinned under a Python."""
    found: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            one = Requirement(line)
            if one.marker is None or one.marker.evaluate(_environment(python)):
                name = canonicalize_name(one.name)
                assert name not in found, f"{name} has two versions under Python {python}"
                found[name] = str(one.specifier).removeprefix("==")
    return found


def _environment(python: str) -> dict[str, str]:
    return {"python_version": python, "python_full_version": f"{python}.1", "extra": ""}


def contradictions(python: str) -> Iterator[str]:
    """Yield what the metadata of installed distributions says against their pins."""
    pinned = pins(python)
    for distribution in metadata.distributions():
        name = canonicalize_name(distribution.metadata["Name"])
        if pinned.get(name) != distribution.version:
            continue  # another version is pinned there, of which nothing is known here
        needs = distribution.metadata.get("Requires-Python")
        if needs and f"{python}.99" not in SpecifierSet(needs):
            yield f"{name} {distribution.version} needs Python {needs}"
        for text in distribution.requires or ():
            one = Requirement(text)
            applies = one.marker is None or one.marker.evaluate(_environment(python))
            version = pinned.get(canonicalize_name(one.name))
            if applies and version and not one.specifier.contains(version, prereleases=True):
                yield f"{name} {distribution.version} needs {text}, and {version} is pinned"


@pytest.mark.parametrize("python", PYTHONS)
def test_pins_do_not_contradict_each_other(python: str) -> None:
    assert list(contradictions(python)) == []


def test_what_is_promised_is_what_is_declared() -> None:
    declared = re.search(r'requires-python = "(.*?)"', (ROOT / "pyproject.toml").read_text())
    assert declared is not None
    for python in PYTHONS:
        assert f"{python}.1" in SpecifierSet(declared[1])
    assert "3.9.20" not in SpecifierSet(declared[1])
