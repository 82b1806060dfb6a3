"""`trainer new`: the beginning of a project, or of a part of one, with a test that passes."""

from __future__ import annotations

import importlib.util
import keyword
import sys
from pathlib import Path

import click

from trainer.commands.errors import UserError

_TEXTS = Path(__file__).parent / "scaffold"
_PARTS = ("dataset", "policy", "trainer", "loss", "optimizer", "block")
_PROJECT = {
    "{name}/README.md": "project_readme.md",
    "{name}/pyproject.toml": "project_pyproject.toml",
    "{name}/train.yaml": "project.yaml",
    "{name}/models/observation_encoder.yaml": "project_encoder.yaml",
    "{name}/models/action_head.yaml": "project_head.yaml",
    "{name}/{name}/__init__.py": "project_init.py",
    "{name}/{name}/data.py": "dataset.py",
    "{name}/{name}/policy.py": "policy.py",
    "{name}/tests/test_{name}.py": "test_project.py",
    "{name}/tests/test_data.py": "test_dataset.py",
    "{name}/tests/test_policy.py": "test_policy.py",
}
_IN_THE_YAML = {
    "dataset": "data:\n  datamodule:\n    type: {name}\n    params: {{ episodes: 20, action_horizon: 4 }}",
    "policy": "train:\n  trainer:\n    type: {name}\n    params: {{ n_action_steps: 2 }}",
    "trainer": "train:\n  trainer:\n    type: {name}\n    params: {{ encoder_every: 2 }}",
    "loss": "train:\n  loss:\n    type: {name}\n    params: {{ threshold: 1.0 }}",
    "optimizer": "train:\n  optimizer:\n    type: {name}\n    params: {{ lr: 0.01 }}",
}


@click.command("new")
@click.argument("kind", type=click.Choice(["project", *_PARTS]))
@click.argument("name")
def new(kind: str, name: str) -> None:
    """Write the beginning of a KIND called NAME into the current folder, with a test that passes.

    \b
    trainer new project reaching    # a folder with dataset, policy, models, train.yaml and tests
    trainer new loss my_loss        # my_loss.py and test_my_loss.py
    """
    wrong = mistake_in(name)
    if wrong is not None:
        raise UserError(f"'{name}' {wrong}")
    made = write_project(name) if kind == "project" else write_part(kind, name)
    for path in made:
        click.echo(f"Written: {path}")
    if kind == "project":
        click.echo(f"Next: cd {name}; pytest; trainer check train.yaml; trainer train train.yaml")
        return
    click.echo(f"Its test: pytest test_{name}.py")
    if kind == "block":
        settings = f"settings: {{ allowed_import_prefixes: [{name}] }}"
        click.echo(f"In the model's YAML:\n\nimports: [{name}]\n{settings}\n\nand `_type_: {name}`")
    else:
        click.echo(f"In the experiment's YAML:\n\nplugins: [{name}]\n{_IN_THE_YAML[kind].format(name=name)}")


def mistake_in(name: str) -> str | None:
    """Return why a name cannot be that of a module of the user's own, or None."""
    if not name.isidentifier() or keyword.iskeyword(name) or name != name.lower() or not name.isascii():
        return "cannot be the name of a module: take small letters, digits and `_`, a letter first"
    if name.startswith("test_"):
        return "would be taken for a test; leave out `test_`"
    if name in sys.stdlib_module_names or name in sys.modules or importlib.util.find_spec(name) is not None:
        return "is the name of a module that is there already; take another one"
    return None


def write_project(name: str, folder: Path = Path()) -> list[Path]:
    """Write a project and return its files; see `_write` for what is refused."""
    texts = {}
    for path, source in _PROJECT.items():
        part = {"dataset": "data", "policy": "policy"}.get(
            source.removesuffix(".py").removeprefix("test_"), ""
        )
        module = f"{name}.{part}" if part else name
        texts[Path(path.format(name=name))] = _text(source, name, f"{name}_{part}" if part else name, module)
    return _write(folder, texts)


def write_part(kind: str, name: str, folder: Path = Path()) -> list[Path]:
    """Write a part and its test and return the files; see `_write` for what is refused."""
    sources = {Path(f"{name}.py"): f"{kind}.py", Path(f"test_{name}.py"): f"test_{kind}.py"}
    return _write(folder, {path: _text(source, name, name, name) for path, source in sources.items()})


def _text(source: str, name: str, key: str, module: str) -> str:
    """Return a file of the scaffold with its names filled in."""
    text = (_TEXTS / f"{source}.txt").read_text(encoding="utf-8")
    words = {
        "__CLASS__": "".join(word.title() for word in key.split("_")),
        "__KEY__": key,
        "__MODULE__": module,
        "__DASHED__": name.replace("_", "-"),
        "__NAME__": name,
    }
    for placeholder, value in words.items():
        text = text.replace(placeholder, value)
    return text


def _write(folder: Path, texts: dict[Path, str]) -> list[Path]:
    """Write files that are not there yet, all or none.

    Raises:
        UserError: one of them is there, or cannot be written.
    """
    for path in texts:
        if (folder / path).exists():
            raise UserError(f"{folder / path} is there already; nothing was written")
    try:
        for path, text in texts.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{error.filename} cannot be written: {error.strerror}") from error
    return [folder / path for path in texts]
