"""The page of all blocks and shipped components: `python -m model_constructor.catalogue > docs/blocks.md`."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from model_constructor.api import build_model
from model_constructor.config.resolve import resolve_config
from model_constructor.graph.model import GraphModel
from model_constructor.registry.default_registry import get_default_registry
from model_constructor.registry.registry import Registry, RegistryEntry
from model_constructor.shapes import example_inputs
from model_constructor.show.describe import shape_text

BATCH_SIZE = 2

INTRODUCTION = """\
# Blocks and components

Made by `python -m model_constructor.catalogue > docs/blocks.md` from the registry, the docstrings and the
YAML files of `experiment_models/`; do not edit it. Sizes are those of a batch of two.

* Every block is registered `strict`: an argument that it does not know is an error.
* `torch.export` is tried on the meta device, in eval mode, with the inputs that the file's `shapes` describe.
* `radiov3` and `da3` are counted, called and exported as the stand-ins with random weights that the meta
  device gets: their own code is fetched with their weights and is not this project's to export.
* A codebook exports with `replacement: false`. With `true` it counts rows over all ranks and rewrites those
  that are unused, a number that only the data knows, so there is no graph to export.
* `hf_backbone` and `timm_backbone` export as far as their library's model does.
"""


@dataclass(frozen=True)
class Component:
    """What was found out about one YAML file.

    Attributes:
        path: the file.
        types: the registered keys in it.
        parameters: of the whole component, and of each type summed over its modules.
        inputs: sizes that went in.
        output: sizes that came out.
        export_error: why `torch.export` refused, None when it did not, and when it was not tried.
    """

    path: Path
    types: tuple[str, ...]
    parameters: int
    parameters_by_type: dict[str, int]
    inputs: str
    output: str
    export_error: str | None


def component_files(folder: Path) -> list[Path]:
    """Return the YAML files below a folder, by name; small variants last."""
    files = folder.rglob("*.yaml")
    return sorted(files, key=lambda path: (path.parent.name.startswith("small"), str(path)))


def build_on_meta(path: Path) -> tuple[GraphModel, dict[str, Any]]:
    """Build a component without memory; return it in eval mode with inputs of its documented shapes."""
    config = resolve_config(path)
    with torch.device("meta"):
        model = build_model(path)
    inputs = example_inputs(config.data, model.inputs, batch_size=BATCH_SIZE)
    model.eval()
    return model, inputs


def examine(path: Path, *, export: bool = True) -> Component:
    """Build a component on the meta device, call it at its documented shapes, and try to export it."""
    model, inputs = build_on_meta(path)
    with torch.no_grad():
        output = model(**inputs)
    error = None
    if export:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.export.export(model, (), inputs)
        except Exception as reason:  # whatever export says is what the page has to tell
            error = str(reason).strip().partition("\n")[0]
    modules = model.get_submodule("graph_modules")
    assert isinstance(modules, nn.ModuleDict)
    specs = resolve_config(path).data["model"]["graph"]["modules"]
    by_type: dict[str, int] = {}
    for name, module in modules.items():
        kind = specs[name]["_type_"]
        by_type[kind] = by_type.get(kind, 0) + count_parameters(module)
    return Component(
        path=path,
        types=tuple(by_type),
        parameters=count_parameters(model),
        parameters_by_type=by_type,
        inputs=", ".join(f"{name} {shape_text(value)}" for name, value in inputs.items()),
        output=shape_text(output),
        export_error=error,
    )


def count_parameters(module: nn.Module) -> int:
    """Return the number of parameters, shared ones once."""
    return sum(parameter.numel() for parameter in module.parameters())


def block_entries(registry: Registry) -> list[RegistryEntry]:
    """Return the entries of all blocks, torch's own modules left out."""
    entries = (registry.get_module(name) for name in registry.list_modules())
    return [entry for entry in entries if "blocks" in entry.tags]


def arguments(entry: RegistryEntry) -> str:
    """Return the constructor's arguments, with their defaults."""
    parts = []
    for parameter in inspect.signature(entry.target).parameters.values():
        default = parameter.default
        if default is inspect.Parameter.empty:
            parts.append(f"`{parameter.name}`")
        else:
            parts.append(f"`{parameter.name}={default!r}`")
    return ", ".join(parts)


def documented_shapes(entry: RegistryEntry) -> str:
    """Return the paragraph `Shapes:` of the block's docstring, or of the nearest base that has one."""
    target = entry.target
    bases = inspect.getmro(target) if inspect.isclass(target) else (target,)
    for base in bases:
        lines = inspect.cleandoc(base.__doc__ or "").splitlines()
        if "Shapes:" not in lines:
            continue
        start = lines.index("Shapes:") + 1
        paragraph = []
        for line in lines[start:]:
            if not line.strip():
                break
            paragraph.append(line.strip())
        return " ".join(paragraph)
    return ""


def rows(components: list[Component], registry: Registry) -> Iterator[str]:
    """Return the lines of the page."""
    yield INTRODUCTION
    yield "## Blocks\n"
    yield "| key | what it is | arguments | shapes | parameters as shipped |"
    yield "|---|---|---|---|---:|"
    shipped: dict[str, str] = {}
    for component in components:
        for kind, count in component.parameters_by_type.items():
            shipped.setdefault(kind, f"{count:,}")
    for entry in block_entries(registry):
        summary = " ".join((inspect.getdoc(entry.target) or "").partition("\n\n")[0].split())
        cells = [f"`{entry.name}`", summary, arguments(entry), documented_shapes(entry)]
        yield table_row(*cells, shipped.get(entry.name, ""))
    yield "\n## Components\n"
    yield "| file | blocks | parameters | inputs | output | exports |"
    yield "|---|---|---:|---|---|---|"
    for component in components:
        yield table_row(
            f"`{component.path.as_posix()}`",
            ", ".join(f"`{kind}`" for kind in component.types),
            f"{component.parameters:,}",
            component.inputs,
            component.output,
            "yes" if component.export_error is None else f"no: {component.export_error}",
        )


def table_row(*cells: str) -> str:
    """Return one line of a table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main(arguments: list[str]) -> int:
    """Print the page; the only argument is the folder of the YAML files, `experiment_models` by default."""
    folder = Path(arguments[0] if arguments else "experiment_models")
    if not folder.is_dir():
        print(f"there is no folder '{folder}'; name the one with the component YAML files", file=sys.stderr)
        return 2
    components = [examine(path) for path in component_files(folder)]
    print("\n".join(rows(components, get_default_registry())))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
