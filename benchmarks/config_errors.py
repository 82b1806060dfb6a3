"""How many wrong configurations of the catalogue are noticed, named, placed and mended by advice.

    python benchmarks/config_errors.py

Beside the framework: the same schema in plain pydantic (`yaml.safe_load`, a merge of `defaults` by hand,
`model_validate`), and the same schema as dataclasses in Hydra (`pip install hydra-core`; left out where it is
not installed). Neither knows the model YAMLs or the parameters of components: of these they read the files.

* noticed: there is an error at all (for overrides that change nothing: a warning);
* named: its text holds the key at fault, or the file where there is no key yet;
* placed: its text holds the file and the line, or the override;
* advised: its text holds what was probably meant, of the cases in which something near was meant.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import io
import logging
import os
import re
import sys
import tempfile
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "policy_constructor"), str(ROOT / "tests")]

from helpers.catalogue import Case, load_cases, write_case  # noqa: E402

from trainer.config.schemas import ExperimentConfig  # noqa: E402

Tool = Callable[[Case], str]
GRADES = ("noticed", "named", "placed", "advised")


def ours(case: Case) -> str:
    """Return what the framework says of a case, empty where it says nothing."""
    from trainer.config.errors import ConfigError, ConfigLoadError
    from trainer.config.loader import load_located
    from trainer.engine.check import check

    try:
        checked = check(load_located("experiment.yaml", case.overrides))
        _ = checked.config
    except (ConfigError, ConfigLoadError) as error:
        return str(error)
    return "\n".join(checked.warnings)


def merged(path: Path) -> dict[str, Any]:
    """Return a file laid over those of its `defaults`, as one writes it in ten lines."""
    with path.open() as file:
        own = yaml.safe_load(file)
    result: dict[str, Any] = {}
    for entry in own.pop("defaults", []):
        name = next(iter(entry.values())) if isinstance(entry, dict) else entry
        lay_over(result, merged(path.parent / name))
    lay_over(result, own)
    return result


def lay_over(below: dict[str, Any], above: Mapping[str, Any]) -> None:
    """Merge mappings key by key."""
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            lay_over(below[key], value)
        else:
            below[key] = value


def plain_pydantic(case: Case) -> str:
    """Return what the schema says of a case when nothing but PyYAML and pydantic is used."""
    try:
        raw = merged(Path("experiment.yaml"))
        for text in case.overrides:
            path, _, value = text.partition("=")
            for key in reversed(path.split(".")):
                value = {key: yaml.safe_load(value) if isinstance(value, str) else value}
            lay_over(raw, value)
        text = re.sub(r"\$\{env:(?:\w+:)?(\w+)[^}]*\}", r"$\1", yaml.dump(raw))
        raw = yaml.safe_load(os.path.expandvars(text))
        config = ExperimentConfig.model_validate(raw)
        for model in config.model.component_config_paths.values():
            merged(Path(model))
    except Exception as error:  # whatever it raises is what its user reads
        return f"{type(error).__name__}: {error}"
    return ""


def as_dataclass(model: type[BaseModel], made: dict[type, type]) -> type:
    """Return the dataclass with the fields of a section, as Hydra takes it."""
    if model not in made:
        fields = []
        for name, field in model.model_fields.items():
            kind = as_type(field.annotation, made)
            default = "???" if field.is_required() else field.get_default(call_default_factory=True)
            if isinstance(default, BaseModel):
                default = made[type(default)](**{})
            if isinstance(default, list):
                default = []
            if isinstance(kind, type) and issubclass(kind, enum.Enum) and default != "???":
                default = kind(default)
            kind = kind | None if default is None else kind
            fields.append((name, kind, dataclasses.field(default_factory=lambda value=default: value)))
        made[model] = dataclasses.make_dataclass(model.__name__, fields)
    return made[model]


def as_type(annotation: Any, made: dict[type, type]) -> Any:
    """Return the type of a field as OmegaConf takes it; `Any` for what it has no word for."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return enum.Enum("Choice", {str(a): a for a in arguments})
    if origin is list:
        return list[as_type(arguments[0], made)]  # type: ignore[misc]
    if origin is dict:
        return dict[str, as_type(arguments[1], made)]  # type: ignore[misc]
    if arguments:
        members = [as_type(a, made) for a in arguments if a is not type(None)]
        return members[0] | None if len(members) == 1 and type(None) in arguments else Any
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return as_dataclass(annotation, made)
    return annotation if annotation in (int, float, str, bool) else Any


def hydra(case: Case) -> str:
    """Return what Hydra says of a case, whose files are written in its language."""
    from hydra import compose, initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    ConfigStore.instance().store(name="schema", node=as_dataclass(ExperimentConfig, {}))
    for path in Path.cwd().rglob("*.yaml"):
        path.write_text(in_hydras_words(path.read_text(), path))
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(Path.cwd()), version_base=None):
            config = compose("experiment", overrides=list(case.overrides))
            plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        for model in plain["model"]["component_config_paths"].values():
            own: Any = OmegaConf.load(model)
            names = (
                []
                if "defaults" not in own
                else [
                    next(iter(one.values())) if isinstance(one, dict) else one
                    for one in OmegaConf.to_container(own.pop("defaults"))
                ]
            )
            below = [
                OmegaConf.load(Path(model).parent / f"{name.lstrip('/')}.yaml")
                for name in names
                if name != "_self_"
            ]
            OmegaConf.to_container(OmegaConf.merge(*below, own), resolve=True)
    except (Exception, SystemExit) as error:  # whatever it raises is what its user reads
        cause = f"; {error.__cause__}" if error.__cause__ is not None else ""
        return f"{type(error).__name__}: {error}{cause}"
    return ""


def in_hydras_words(text: str, path: Path) -> str:
    """Return a file in Hydra's form: names without ending, `_self_`, the schema below, `oc.env`."""

    def entries(match: re.Match[str]) -> str:
        names = re.findall(r"([\w./-]+)\.ya?ml", match[0])
        relative = [f"/{name}" if (path.parent / f"{name}.yaml").exists() else name for name in names]
        top = ["/schema"] if path.name == "base.yaml" else []
        inside = [f"{name.lstrip('/')}@_here_" if "/" in name.lstrip("/") else name for name in relative]
        return f"defaults: [{', '.join([*top, *inside, '_self_'])}]\n"

    text = re.sub(r"defaults:(?: .*\n|\n(?:  - .*\n)+)", entries, text, count=1)
    if path.name == "base.yaml" and "defaults:" not in text:
        text = f"# @package _global_\ndefaults: [/schema, _self_]\n{text}"
    return re.sub(r"\$\{env:(?:\w+:)?", "${oc.env:", text)


def expected(case: Case) -> list[tuple[str, str, str]]:
    """Return key, place and advice for each mistake of a case; empty texts where there is none."""
    places = iter(case.places)
    found = []
    for text in (*case.says, *case.warns):
        override = text.startswith("--set")
        place = text.partition(": ")[0].partition(" changes")[0] if override else next(places)
        rest = text.partition(": ")[2] if override else text
        path = re.match(r"([a-z_]+(?:\[\d+\]|\.[\w.\[\]-]+)*): ", rest)
        near = re.search(r"did you mean ['`]?([\w.:/]+\w)|stands at `([\w.]+)`|plugin ([\w.]+\w)$", text)
        key = re.split(r"[.\[]", path[1].rstrip("]"))[-1] if path else ""
        advice = next((group for group in near.groups() if group), "") if near else ""
        found.append((key or place.split(":")[0], place, advice))
    return found


def graded(case: Case, said: str) -> dict[str, bool | None]:
    """Return what an answer achieves; None where nothing was to achieve."""
    key, place, advice = expected(case)[0]
    file, line = [*place.split(":"), ""][:2] if not place.startswith("--set") else (place, "")
    in_words = rf"{re.escape(file)}.{{0,40}}?(:|line ){line}\b"
    is_placed = place.removeprefix("--set ") in said if not line else bool(re.search(in_words, said, re.S))
    return {
        "noticed": bool(said),
        "named": bool(said) and key in said,
        "placed": bool(said) and is_placed,
        "advised": None if not advice else bool(said) and advice in said,
    }


@contextlib.contextmanager
def folder_of(case: Case) -> Iterator[None]:
    """Write the files of a case and go there, with its environment."""
    before, path = dict(os.environ), list(sys.path)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        (folder / "pyproject.toml").touch()
        write_case(case, folder)
        os.environ.update(case.environment)
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(ROOT)
            sys.path[:] = path
            os.environ.clear()
            os.environ.update(before)


def main() -> None:
    """Print a table: group × tool, how many of each grade."""
    tools: dict[str, Tool] = {"framework": ours, "pydantic": plain_pydantic}
    try:
        import hydra as installed

        tools[f"hydra {installed.__version__}"] = hydra
    except ImportError:
        print("hydra is not installed and left out")
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    everything = load_cases()
    cases = [case for case in everything if case.says or case.warns]
    (right,) = (case for case in everything if not case.says and not case.warns)
    for name, tool in tools.items():
        with folder_of(right):
            assert not (said := tool(right)), f"{name} finds a mistake where there is none: {said}"
    counts: dict[tuple[str, str, str], list[int]] = {}
    for case in cases:
        for name, tool in tools.items():
            with folder_of(case), contextlib.redirect_stderr(io.StringIO()):
                said = tool(case)
            if "--show" in sys.argv:
                print(f"[{case.group}: {case.name}] {name}: {said[:300]}\n")
            for grade, achieved in graded(case, said).items():
                if achieved is not None:
                    for group in (case.group, "all"):
                        count = counts.setdefault((group, name, grade), [0, 0])
                        count[0] += achieved
                        count[1] += 1
    groups = [*dict.fromkeys(case.group for case in cases), "all"]
    print("| cases | tool | " + " | ".join(GRADES) + " |\n|---|---|" + "---|" * len(GRADES))
    for group in groups:
        for name in tools:
            cells = [f"{a} of {b}" for a, b in (counts[group, name, grade] for grade in GRADES)]
            print(f"| {group} | {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
