"""The rooms of the house: imports run downwards only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A room may import from rooms of a lower level; within one level only from the rooms named beside it.
LEVELS = [
    {"utils"},
    {"config", "registry", "templates"},
    {"runtime", "data", "modeling"},
    {"checkpoint", "deployment", "evaluation", "pages"},
    {"engine"},
    {"online"},
    {"entries"},
]
SIDEWAYS = {
    ("registry", "templates"),
    ("modeling", "runtime"),
    ("deployment", "checkpoint"),
    ("pages", "checkpoint"),
    ("evaluation", "deployment"),
}
ENTRIES = {"cli", "offline_trainer", "online_trainer", "commands", "__main__"}


def room(module: str) -> str:
    parts = module.split(".")
    if parts[0] != "trainer":
        return parts[0]
    return "entries" if len(parts) == 1 or parts[1] in ENTRIES else parts[1]


def imports(path: Path) -> set[str]:
    """Return every module that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
    return found


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def level(name: str) -> int:
    return next(i for i, rooms in enumerate(LEVELS) if name in rooms)


TRAINER_FILES = sorted((ROOT / "trainer").rglob("*.py"))


@pytest.mark.parametrize("path", TRAINER_FILES, ids=module_name)
def test_imports_run_downwards_only(path: Path) -> None:
    here = room(module_name(path))
    if module_name(path) == "trainer":
        return  # the package root re-exports `load_policy` lazily
    for module in imports(path):
        there = room(module)
        if module.split(".")[0] == "trainer" and module != "trainer" and there != here:
            allowed = level(there) < level(here) or (here, there) in SIDEWAYS
            assert allowed, f"{module_name(path)} ({here}) imports {module} ({there})"
        assert there != "experiment_training", f"{module_name(path)} knows an experiment: {module}"


@pytest.mark.parametrize("path", sorted((ROOT / "trainer/config").rglob("*.py")), ids=module_name)
def test_the_config_room_does_not_know_torch(path: Path) -> None:
    assert not {m for m in imports(path) if m.split(".")[0] == "torch"}


@pytest.mark.parametrize(
    "path", sorted((ROOT / "policy_constructor/model_constructor").rglob("*.py")), ids=lambda p: p.stem
)
def test_the_model_language_does_not_know_the_trainer(path: Path) -> None:
    assert not {m for m in imports(path) if m.split(".")[0] in ("trainer", "experiment_training")}


def test_no_file_in_trainer_hides_a_standard_module() -> None:
    """`python trainer/offline_trainer.py` puts that folder first on the path."""
    import sys

    names = {p.stem for p in (ROOT / "trainer").iterdir() if not p.name.startswith("__")}
    assert not names & set(sys.stdlib_module_names)


def test_every_room_is_placed() -> None:
    rooms = {p.parent.name for p in (ROOT / "trainer").glob("*/__init__.py")} - ENTRIES
    assert rooms <= set().union(*LEVELS)


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=lambda p: p.stem)
def test_what_tests_share_comes_from_the_helpers(path: Path) -> None:
    """A test module stands alone: what two of them use is in `tests/helpers`."""
    own = {p.stem for p in (ROOT / "tests").rglob("*.py") if p.parent.name != "helpers"}
    shared = {module.split(".")[0] for module in imports(path)} & (own | {"tests"})
    assert not shared, f"{path.name} imports {', '.join(sorted(shared))}"
