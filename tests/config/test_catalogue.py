"""Every wrong configuration of the catalogue is answered at its exact place, with the exact suggestion."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import yaml
from helpers.catalogue import FILE, Case, load_cases, load_chains, write_case

from trainer.config.errors import ConfigError, ConfigLoadError
from trainer.config.loader import load_located
from trainer.config.paths import SHIPPED
from trainer.engine.check import check, import_builtins
from trainer.engine.registered import registries
from trainer.registry import load_plugins
from trainer.registry.shipped import shipped_plugins

_BASE = yaml.safe_load(FILE.read_text(encoding="utf-8"))["files"]["lab/base.yaml"]
PLUGINS = yaml.safe_load(_BASE)["plugins"]
CASES = load_cases()
CHAINS = load_chains()


def due(case: Case, project: Path) -> list[str]:
    """Return the sentences that are due, with places and chains."""
    try:
        math.sqrt(-1)
    except ValueError as error:
        sqrt = str(error)
    places = iter(case.places)
    sentences = []
    for text in case.says:
        text = text.replace("{project}", str(project)).replace("{shipped}", str(SHIPPED))
        text = text.replace("{sqrt}", sqrt)
        if text.startswith("="):
            sentences.append(text[1:].strip())
        elif text.startswith("--set"):
            sentences.append(text)
        else:
            place = next(places)
            chain = CHAINS.get(place.split(":")[0], "")
            sentences.append(f"{place}: {text}" + (f" (reached by {chain})" if chain else ""))
    assert not list(places), "there are more marks than sentences"
    return sentences


def said(case: Case, project: Path) -> tuple[list[str], list[str]]:
    """Return the mistakes that are found, and the warnings."""
    try:
        checked = check(load_located("experiment.yaml", case.overrides))
        _ = checked.config
    except (ConfigError, ConfigLoadError) as error:
        found = [str(issue) for issue in error.issues]
        return [text.replace(f"{project}/models/", "models/") for text in found], []
    return [], list(checked.warnings)


@pytest.fixture
def only_its_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other tests have registered in this process is not there."""
    import_builtins()
    load_plugins(PLUGINS)
    shipped = shipped_plugins()
    for name, registry in registries().items():
        kept = {
            key: cls
            for key, cls in registry._entries.items()
            if cls.__module__.startswith("trainer.") or shipped.get(name, {}).get(key) in PLUGINS
        }
        monkeypatch.setattr(registry, "_entries", kept)


@pytest.mark.usefixtures("only_its_plugins")
@pytest.mark.parametrize("case", CASES, ids=[f"{case.group}: {case.name}" for case in CASES])
def test_place_and_suggestion_are_exact(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path.resolve()
    (project / "pyproject.toml").touch()
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name, value in case.environment.items():
        monkeypatch.setenv(name, value)
    write_case(case, project)
    found, warnings = said(case, project)
    assert sorted(found) == sorted(due(case, project))
    if not case.says:
        assert warnings == list(case.warns)


def test_the_catalogue_is_large_and_covers_every_way_in() -> None:
    groups = {case.group for case in CASES if case.says}
    assert groups == {"experiment", "defaults", "model", "command line", "environment"}
    assert sum(1 for case in CASES if case.says) >= 100
    assert len({(case.group, case.name) for case in CASES}) == len(CASES)
