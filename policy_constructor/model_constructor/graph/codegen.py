"""Writes the `forward` of a `torch.fx.Graph` as straight Python.

Unlike fx's own code it looks modules up in the plain dicts beneath `nn.Module` (an attribute of a module
costs about ten times as much as a dict entry), names the YAML line of each step, and says which line is
which step.
"""

from __future__ import annotations

import keyword
import math
import operator
import os
import re
from dataclasses import dataclass
from typing import Any

import torch.fx

from model_constructor.graph.lowering import CONTAINER, StepLabel, take_all, take_keys

_INFIX = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.truediv: "/",
    operator.pow: "**",
    operator.matmul: "@",
}


@dataclass(frozen=True)
class ForwardCode:
    """A generated function.

    Attributes:
        source: its text.
        namespace: the globals that it refers to.
        parameters: names of its parameters, in the order of the graph's inputs.
        steps: line number → node whose call stands there.
        variables: node → local variable that holds its value.
    """

    source: str
    namespace: dict[str, Any]
    parameters: list[str]
    steps: dict[int, torch.fx.Node]
    variables: dict[torch.fx.Node, str]


def generate(graph: torch.fx.Graph) -> ForwardCode:
    """The `forward(self, …)` of a graph."""
    return _Writer(graph).write()


def _parts(node: torch.fx.Node) -> list[torch.fx.Node]:
    """The nodes that just take the results of a `take_…` node apart, in order: they become its targets."""
    if node.op != "call_function" or node.target not in (take_all, take_keys):
        return []
    promised: Any = node.args[1]
    length = promised if node.target is take_all else len(promised)
    parts = list(node.users)
    plain = [
        part.target is operator.getitem and part.args == (node, index) for index, part in enumerate(parts)
    ]
    return parts if all(plain) and len(parts) == length and length > 1 else []


class _Writer:
    def __init__(self, graph: torch.fx.Graph) -> None:
        self.graph = graph
        self.namespace: dict[str, Any] = {}
        self.variables: dict[torch.fx.Node, str] = {}
        self._taken = {"self"}
        for node in graph.nodes:
            if node.op == "output":
                continue
            # An input keeps its own name, so that it can be given by keyword; fx renames e.g. `input`.
            wanted = str(node.target) if node.op == "placeholder" else node.name
            self.variables[node] = self._free(wanted)
        self.modules = self._free("modules")

    def write(self) -> ForwardCode:
        nodes = list(self.graph.nodes)
        parameters = [self._parameter(node) for node in nodes if node.op == "placeholder"]
        lines = [f"def forward({', '.join(['self', *parameters])}):"]
        steps: dict[int, torch.fx.Node] = {}
        if any(self._module_name(node) for node in nodes):
            lines.append(f'    {self.modules} = self._modules["{CONTAINER}"]._modules')
        dying = self._last_uses(nodes)
        joined: set[torch.fx.Node] = set()
        for node in nodes:
            if node.op == "placeholder" or node in joined:
                continue
            if node.op == "output":
                lines.append(f"    return {self._value(node.args[0])}")
                continue
            parts = _parts(node)
            joined.update(parts)
            made = ", ".join(self.variables[part] for part in parts) if parts else self.variables[node]
            line = f"    {made} = {self._call(node)}"
            if dead := dying.get(node):
                line += f"; del {', '.join(dead)}"
            lines.append(line + self._comment(node))
            steps[len(lines)] = node
        if not nodes or nodes[-1].op != "output":
            lines.append("    return None")
        source = "\n".join(lines) + "\n"
        names = [self.variables[node] for node in nodes if node.op == "placeholder"]
        return ForwardCode(source, self.namespace, names, steps, self.variables)

    def _free(self, name: str) -> str:
        while keyword.iskeyword(name) or name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def _global(self, name: str, value: Any) -> str:
        for known, other in self.namespace.items():
            if other is value:
                return known
        free = self._free(re.sub(r"\W", "_", name))
        self.namespace[free] = value
        return free

    def _parameter(self, node: torch.fx.Node) -> str:
        name = self.variables[node]
        return f"{name}={self._value(node.args[0])}" if node.args else name

    @staticmethod
    def _module_name(node: torch.fx.Node) -> str | None:
        """The entry of the container that a node calls; `None` for modules elsewhere (fx passes add such)."""
        if node.op != "call_module":
            return None
        container, _, name = str(node.target).partition(".")
        return name if container == CONTAINER and name and "." not in name else None

    def _last_uses(self, nodes: list[torch.fx.Node]) -> dict[torch.fx.Node, list[str]]:
        """The variables that no later node needs, by the node after which they can go.

        Inputs stay: the caller holds them anyway. So do results that nobody uses, for a reader of the code.
        """
        dying: dict[torch.fx.Node, list[str]] = {}
        seen: set[torch.fx.Node] = set()
        for node in reversed(nodes):
            for used in node.all_input_nodes:
                if used not in seen:
                    seen.add(used)
                    if used.op not in ("placeholder", "get_attr") and node.op != "output":
                        dying.setdefault(node, []).append(self.variables[used])
        return dying

    @staticmethod
    def _comment(node: torch.fx.Node) -> str:
        label = node.meta.get("step")
        if not isinstance(label, StepLabel) or label.location is None:
            return ""
        file = os.path.basename(label.location.file).encode("unicode_escape").decode("ascii")
        return f"  # {file}:{label.location.line}"

    def _call(self, node: torch.fx.Node) -> str:
        if node.op == "get_attr":
            return f"self.{node.target}"
        if node.op == "call_module":
            name = self._module_name(node)
            called = f'{self.modules}["{name}"]' if name else f"self.get_submodule({node.target!r})"
            return f"{called}({self._arguments(node.args, node.kwargs)})"
        if node.op == "call_method":
            return f"{self._value(node.args[0])}.{node.target}({self._arguments(node.args[1:], node.kwargs)})"
        assert callable(node.target), f"fx knows no node '{node.op}'"
        if not node.kwargs and len(node.args) == 2:
            left, right = (self._value(arg) for arg in node.args)
            simple = isinstance(node.args[0], torch.fx.Node)
            if node.target in _INFIX and simple:
                return f"{left} {_INFIX[node.target]} {right}"
            if node.target is operator.getitem and simple:
                return f"{left}[{right}]"
        name = getattr(node.target, "__name__", type(node.target).__name__)
        label = node.meta.get("step")
        if node.target not in (take_all, take_keys):
            name = f"op_{label.name if isinstance(label, StepLabel) else name}"
        return f"{self._global(name, node.target)}({self._arguments(node.args, node.kwargs)})"

    def _arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        parts = [self._value(arg) for arg in args]
        odd = {}
        for key, value in kwargs.items():
            if key.isidentifier() and not keyword.iskeyword(key):
                parts.append(f"{key}={self._value(value)}")
            else:
                odd[key] = value
        if odd:
            parts.append(f"**{self._value(odd)}")
        return ", ".join(parts)

    def _value(self, value: Any) -> str:
        if isinstance(value, torch.fx.Node):
            return self.variables[value]
        if isinstance(value, tuple):
            items = ", ".join(self._value(item) for item in value)
            return f"({items},)" if len(value) == 1 else f"({items})"
        if isinstance(value, list):
            return f"[{', '.join(self._value(item) for item in value)}]"
        if isinstance(value, dict):
            return f"{{{', '.join(f'{key!r}: {self._value(item)}' for key, item in value.items())}}}"
        if isinstance(value, slice):
            return f"slice({self._value(value.start)}, {self._value(value.stop)}, {self._value(value.step)})"
        if value is None or type(value) in (bool, int, str):
            return repr(value)
        if type(value) is float and math.isfinite(value):
            return repr(value)
        return self._global(f"constant_{type(value).__name__}", value)
