"""A `torch.fx.Graph` as plain data and back, for copying and pickling.

fx itself would trace the generated code again, which fails on operations that look at values.
"""

from __future__ import annotations

from typing import Any

import torch.fx

from model_constructor.graph.ir import Ref


def pack(graph: torch.fx.Graph) -> list[Any]:
    """The graph's nodes in order, with `Ref`s in place of nodes; of their `meta` only `step` is kept."""
    return [
        (
            node.op,
            node.name,
            node.target,
            _mapped(node.args, torch.fx.Node, lambda used: Ref(used.name)),
            _mapped(node.kwargs, torch.fx.Node, lambda used: Ref(used.name)),
            node.meta.get("step"),
        )
        for node in graph.nodes
    ]


def unpack(packed: list[Any]) -> torch.fx.Graph:
    """The graph that `pack` took apart."""
    graph = torch.fx.Graph()
    nodes: dict[str, torch.fx.Node] = {}
    for op, name, target, args, kwargs, step in packed:
        args = _mapped(args, Ref, lambda ref: nodes[ref.name])
        kwargs = _mapped(kwargs, Ref, lambda ref: nodes[ref.name])
        node = graph.create_node(op, target, args, kwargs, name=name)
        nodes[name] = node
        if step is not None:
            node.meta["step"] = step
    return graph


def _mapped(value: Any, kind: type, change: Any) -> Any:
    """`value` with everything of `kind` in it changed, in plain containers."""
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_mapped(item, kind, change) for item in value)
    if isinstance(value, list):
        return [_mapped(item, kind, change) for item in value]
    if isinstance(value, dict):
        return {key: _mapped(item, kind, change) for key, item in value.items()}
    return value
