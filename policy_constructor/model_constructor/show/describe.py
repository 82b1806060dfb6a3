"""Builds a model on the meta device and notes what it consists of and which shapes go through it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from model_constructor.api import build_model, compile_ir
from model_constructor.config.resolve import refuse_unread_params, resolve_config
from model_constructor.errors import ConfigError
from model_constructor.graph.lowering import StepLabel, take_all, take_keys
from model_constructor.graph.model import GraphModel
from model_constructor.registry.registry import Registry
from model_constructor.shapes import inputs_from_shapes

_TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class ModuleRow:
    """A module: its name, its type as in the YAML, how many parameters it has and how many of them learn."""

    name: str
    type: str
    parameters: int
    trainable: int


@dataclass(frozen=True)
class StepRow:
    """A value's origin: an input, a call or an output.

    Attributes:
        id: unique in the description.
        kind: `input`, `module`, `op` or `output`.
        names: of the values that it makes.
        call: the module's or operation's name, the key of an output, empty for inputs.
        sources: ids of the rows whose values it takes.
        shapes: of the values, in the order of `names`; empty texts where they are not known.
        line: in the YAML, where that is known.
    """

    id: str
    kind: str
    names: tuple[str, ...]
    call: str
    sources: tuple[str, ...]
    shapes: tuple[str, ...]
    line: int | None = None


@dataclass(frozen=True)
class ModelDescription:
    """What `trainer model show` shows.

    Attributes:
        title: the file's name.
        modules: in the order in which they are built.
        steps: inputs, calls and outputs in the order in which they run.
        parameters: of the whole model, each shared one once.
        trainable: those of them that learn.
        code: the text of `forward`.
        notes: sentences on what could not be found out.
        misfit: the step at which shapes do not fit together, with its place in the file.
    """

    title: str
    modules: list[ModuleRow]
    steps: list[StepRow]
    parameters: int
    trainable: int
    code: str
    notes: list[str] = field(default_factory=list)
    misfit: ConfigError | None = None


def describe(
    path: str | Path,
    inputs: Mapping[str, Any] | None = None,
    *,
    batch: int = 2,
    registry: Registry | None = None,
) -> ModelDescription:
    """Describe the model of a YAML file; nothing is allocated, however large it is.

    Args:
        path: the YAML file.
        inputs: values of the model's inputs, tensors on any device (they are only looked at); those that are
            not given are taken from the file's `shapes` section.
        batch: what `B` stands for in that section.
        registry: where types and operations are looked up; the process's own when not given.

    Raises:
        ConfigError: for mistakes in the file.
        ValueError: for inputs that the model does not have.
    """
    ir = compile_ir(path, registry=registry)
    config = resolve_config(path)
    refuse_unread_params(path)
    with torch.device("meta"):
        model = build_model(path, registry=registry).to("meta").eval()
    given = dict(inputs or {})
    unknown = [name for name in given if name not in model.inputs]
    if unknown:
        raise ValueError(f"the model has no input '{unknown[0]}'; its inputs are {', '.join(model.inputs)}")
    values = {**inputs_from_shapes(config.data.get("shapes"), batch_size=batch), **given}
    known, notes, misfit = _propagate(model, values)
    types = {
        name: str(module.spec.get("_type_") or module.spec.get("_target_"))
        for name, module in ir.modules.items()
    }
    total, trainable = _count([model], notes)
    return ModelDescription(
        title=Path(path).name,
        modules=[
            ModuleRow(name, types[name], *_count([module], []))
            for name, module in model.graph_modules.items()
        ],
        steps=_steps(model.graph, known),
        parameters=total,
        trainable=trainable,
        code=model.code,
        notes=notes,
        misfit=misfit,
    )


def _count(modules: Iterable[nn.Module], notes: list[str]) -> tuple[int, int]:
    total = trainable = lazy = 0
    for module in modules:
        for parameter in module.parameters():
            if is_lazy(parameter):
                lazy += 1
                continue
            total += parameter.numel()
            trainable += parameter.numel() if parameter.requires_grad else 0
    if lazy:
        notes.append(f"{lazy} parameters get their shapes from the first batch and are not counted")
    return total, trainable


class _Shapes(torch.fx.Interpreter):
    """Runs the graph node by node and keeps every value's description."""

    def __init__(self, model: GraphModel) -> None:
        super().__init__(model)
        self.known: dict[torch.fx.Node, str] = {}
        self.running: torch.fx.Node | None = None

    def run_node(self, n: torch.fx.Node) -> Any:
        """Run one node."""
        self.running = n
        value = super().run_node(n)
        self.known[n] = shape_text(value)
        return value


def _propagate(
    model: GraphModel, values: Mapping[str, Any]
) -> tuple[dict[torch.fx.Node, str], list[str], ConfigError | None]:
    missing = [name for name in model.inputs if name not in values]
    if missing:
        return {}, [f"shapes are not known: no --input for {', '.join(missing)}"], None
    runner = _Shapes(model)
    arguments = [_on_meta(values[name]) for name in model.inputs]
    try:
        with torch.no_grad(), torch.device("meta"):
            runner.run(*arguments)
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        running = runner.running
        step = "the start" if running is None else running.meta.get("step", running.name)
        place, name = (
            (step.location, f"{step.kind} '{step.name}'") if isinstance(step, StepLabel) else (None, step)
        )
        misfit = ConfigError(f"shapes do not fit in {name}: {reason}", location=place)
        return runner.known, [f"shapes are known up to {step}: {reason}"], misfit
    return runner.known, [], None


def _on_meta(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to("meta")
    if isinstance(value, dict):
        return {key: _on_meta(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_on_meta(child) for child in value]
    return value


def shape_text(value: Any) -> str:
    """`2×16×7` for a float tensor, its type behind it for others, the like inside brackets for containers."""
    if isinstance(value, Tensor):
        shape = _TIMES.join(str(size) for size in value.shape) or "scalar"
        return shape if value.dtype == torch.float32 else f"{shape} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {shape_text(child)}" for key, child in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(shape_text(child) for child in value) + "]"
    return "null" if value is None else str(value)


def _steps(graph: torch.fx.Graph, known: Mapping[torch.fx.Node, str]) -> list[StepRow]:
    rows: list[StepRow] = []
    owner: dict[torch.fx.Node, str] = {}

    def sources(nodes: Iterable[torch.fx.Node]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(owner[node] for node in nodes))

    for node in graph.nodes:
        if node in owner:
            continue
        label = node.meta.get("step")
        call = label.name if isinstance(label, StepLabel) else str(node.target)
        line = label.location.line if isinstance(label, StepLabel) and label.location else None
        if node.op == "output":
            rows += _outputs(node, owner, known)
            continue
        taking = [user for user in node.users if user.target in (take_all, take_keys)]
        parts = [part for take in taking for part in take.users]
        made = parts or [node]
        kind = {"placeholder": "input", "call_module": "module"}.get(node.op, "op")
        for part in [node, *taking, *parts]:
            owner[part] = node.name
        rows.append(
            StepRow(
                id=node.name,
                kind=kind,
                names=tuple(str(node.target) if kind == "input" else part.name for part in made),
                call="" if kind == "input" else call,
                sources=sources(node.all_input_nodes),
                shapes=tuple(known.get(part, "") for part in made),
                line=line,
            )
        )
    return rows


def _outputs(
    node: torch.fx.Node, owner: Mapping[torch.fx.Node, str], known: Mapping[torch.fx.Node, str]
) -> list[StepRow]:
    results: Any = node.args[0]
    if isinstance(results, dict):
        named = list(results.items())
    elif isinstance(results, (tuple, list)):
        named = [(f"[{index}]", result) for index, result in enumerate(results)]
    else:
        named = [("result", results)]
    return [
        StepRow(f"output {key}", "output", (key,), result.name, (owner[result],), (known.get(result, ""),))
        for key, result in named
    ]
