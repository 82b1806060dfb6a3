"""Turns a checked `GraphIR` into a `torch.fx.Graph`."""

from __future__ import annotations

from dataclasses import dataclass
from operator import getitem
from typing import Any

import torch.fx

from model_constructor.config.source_map import SourceLocation
from model_constructor.errors import GraphExecutionError
from model_constructor.graph.ir import GraphIR, Ref, StepIR

CONTAINER = "graph_modules"


@dataclass(frozen=True)
class StepLabel:
    """What a node of the graph is in the model YAML; stands in `node.meta["step"]`."""

    kind: str
    name: str
    location: SourceLocation | None

    def __str__(self) -> str:
        place = f" at {self.location.format()}" if self.location is not None else ""
        return f"{self.kind} '{self.name}'{place}"


def lower(ir: GraphIR) -> torch.fx.Graph:
    """The graph of placeholders, module calls, operations and one output.

    Raises:
        AssertionError: for a reference to nothing, which the compiler never lets through.
    """
    graph = torch.fx.Graph()
    values: dict[str, torch.fx.Node] = {name: graph.placeholder(name) for name in ir.inputs}
    for step in ir.steps:
        _lower_step(graph, step, ir, values)
    if isinstance(ir.outputs, dict):
        graph.output({key: values[name] for key, name in ir.outputs.items()})
    elif ir.return_policy == "single":
        graph.output(values[ir.outputs[0]])
    else:
        graph.output(tuple(values[name] for name in ir.outputs))
    return graph


def _lower_step(graph: torch.fx.Graph, step: StepIR, ir: GraphIR, values: dict[str, torch.fx.Node]) -> None:
    label = StepLabel(step.call_kind, step.call_name, step.location)

    def node(op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> torch.fx.Node:
        made = graph.create_node(op, target, args, kwargs, name=name)
        made.meta["step"] = label
        return made

    args = tuple(_filled(arg, values) for arg in step.args)
    kwargs = {key: _filled(arg, values) for key, arg in step.kwargs.items()}
    single = isinstance(step.out, str)
    name = step.produced[0] if single else f"{step.call_name}_result"
    if step.call_kind == "module":
        result = node("call_module", f"{CONTAINER}.{step.call_name}", args, kwargs, name)
    else:
        result = node("call_function", ir.ops[step.call_name], args, kwargs, name)
    if single:
        values[name] = result
        return
    if isinstance(step.out, dict):
        parts = node("call_function", take_keys, (result, list(step.out)), {}, f"{name}_values")
    else:
        parts = node("call_function", take_all, (result, len(step.out)), {}, f"{name}_values")
    for index, produced in enumerate(step.produced):
        values[produced] = node("call_function", getitem, (parts, index), {}, produced)


def _filled(value: Any, values: dict[str, torch.fx.Node]) -> Any:
    if isinstance(value, Ref):
        assert value.name in values, f"the compiler let a reference to '{value.name}' through"
        return values[value.name]
    if isinstance(value, dict):
        return {key: _filled(child, values) for key, child in value.items()}
    if isinstance(value, list):
        return [_filled(child, values) for child in value]
    return value


def take_all(result: Any, length: int) -> Any:
    """A step's result for `out` with `length` names.

    Raises:
        GraphExecutionError: when it is no tuple or list of that length.
    """
    if not isinstance(result, (tuple, list)):
        raise GraphExecutionError(f"'out' lists {length} names, but the result is a {type(result).__name__}")
    if len(result) != length:
        raise GraphExecutionError(f"'out' lists {length} names, but the result has {len(result)} items")
    return result


def take_keys(result: Any, keys: list[str]) -> list[Any]:
    """The values under `keys` of a step's result.

    Raises:
        GraphExecutionError: when it is no dict, or lacks one of the keys.
    """
    if not isinstance(result, dict):
        raise GraphExecutionError(
            f"'out' takes keys {list(keys)}, but the result is a {type(result).__name__}"
        )
    missing = [key for key in keys if key not in result]
    if missing:
        raise GraphExecutionError(f"'out' takes keys {missing}, but the result only has {list(result)}")
    return [result[key] for key in keys]
