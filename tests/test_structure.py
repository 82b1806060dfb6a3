"""The rooms of the house: imports run downwards only."""

from __future__ import annotations

import ast
from collections.abc import Collection
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
ENTRIES = {"api", "cli", "offline_trainer", "ray_trainer", "online_trainer", "commands", "__main__"}


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
LANGUAGE = ROOT / "policy_constructor"
LANGUAGE_FILES = sorted((LANGUAGE / "model_constructor").rglob("*.py"))
# Of the model language too each layer knows the ones before it only.
LANGUAGE_LAYERS = [
    {
        "version",
        "errors",
        "random",
        "config.source_map",
        "util.suggest",
        "util.trust",
        "util.excerpt",
        "util.problems",
    },
    {"config", "compat"},
    {"registry.registry"},
    {"util.imports", "instantiate"},
    {"graph"},
    {"shapes", "blocks"},
    {"registry"},
    {"api"},
    {"show"},
    {"catalogue"},
]


def module_of(path: Path) -> str:
    base = LANGUAGE if LANGUAGE in path.parents else ROOT
    return ".".join(path.relative_to(base).with_suffix("").parts).removesuffix(".__init__")


def loaded_with(path: Path, modules: Collection[str]) -> set[str]:
    """Return those of the modules that come with a file when it is imported: not those inside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.level == 0 and child.module:
                inner = (f"{child.module}.{alias.name}" for alias in child.names)
                found.update(name if name in modules else child.module for name in inner)
            visit(child)

    visit(tree)
    return found & set(modules)


def circles(files: list[Path]) -> list[list[str]]:
    """Return the groups of modules that import each other, by Tarjan's algorithm."""
    modules = {module_of(path): path for path in files}
    graph = {name: sorted(loaded_with(path, modules)) for name, path in modules.items()}
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in graph[name]:
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1 or name in graph[name]:
                found.append(sorted(group))

    for name in graph:
        if name not in index:
            visit(name)
    return found


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


# The console command gathers the subcommands, and these run the offline trainer.
ENTRY_LEVELS = [
    {"offline_trainer"},
    {"ray_trainer"},
    {"online_trainer"},
    {"api"},
    {"commands"},
    {"cli"},
    {"__main__"},
]


@pytest.mark.parametrize("path", TRAINER_FILES, ids=module_name)
def test_entries_import_downwards_too(path: Path) -> None:
    def entry_level(module: str) -> int | None:
        name = module.split(".")[1] if "." in module else ""
        return next((i for i, names in enumerate(ENTRY_LEVELS) if name in names), None)

    here = entry_level(module_name(path))
    for module in imports(path) if here is not None else ():
        there = entry_level(module) if module.split(".")[0] == "trainer" else None
        inside = module.split(".")[:2] == module_name(path).split(".")[:2]
        assert there is None or inside or there < here, f"{module_name(path)} imports {module}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles([*TRAINER_FILES, *sorted((ROOT / "experiment_training").rglob("*.py"))]) == []
    assert circles(LANGUAGE_FILES) == []


def test_a_circle_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("test_structure.ROOT", tmp_path)
    texts = {
        "a": "import b",
        "b": "from c import x",
        "c": "import a\nimport d",
        "d": "def f():\n    import a",
    }
    files = [tmp_path / f"{name}.py" for name in texts]
    for path, text in zip(files, texts.values(), strict=True):
        path.write_text(text)
    assert circles(files) == [["a", "b", "c"]]


@pytest.mark.parametrize(
    "path",
    [
        *TRAINER_FILES,
        *(f for room in ("experiment_training", "examples") for f in (ROOT / room).rglob("*.py")),
    ],
    ids=module_name,
)
def test_the_model_language_is_used_by_its_public_face(path: Path) -> None:
    import model_constructor

    inner = {m for m in imports(path) if m.startswith("model_constructor.")}
    assert not inner, f"{module_name(path)} imports {', '.join(inner)}, which is not the public face"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "model_constructor":
            assert {alias.name for alias in node.names} <= set(model_constructor.__all__)


def test_every_name_of_the_public_face_is_there() -> None:
    import model_constructor

    assert all(hasattr(model_constructor, name) for name in model_constructor.__all__)


@pytest.mark.parametrize("path", LANGUAGE_FILES, ids=module_of)
def test_layers_of_the_model_language_import_downwards(path: Path) -> None:
    def layer(module: str) -> int | None:
        inner = module.removeprefix("model_constructor").lstrip(".")
        matches = [
            (len(name), i)
            for i, names in enumerate(LANGUAGE_LAYERS)
            for name in names
            if inner == name or inner.startswith(f"{name}.")
        ]
        return max(matches)[1] if matches else None

    here = layer(module_of(path))
    if module_of(path) in ("model_constructor", "model_constructor.util"):
        return  # the package root gives its names lazily
    assert here is not None, f"{module_of(path)} has no layer"
    modules = {module_of(other) for other in LANGUAGE_FILES}
    for module in loaded_with(path, modules):
        there = layer(module)
        assert there is None or there <= here, f"{module_of(path)} imports {module}"


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
