"""Checks `model.sequential` or `model.graph` and turns it into a `GraphIR`; nothing is built here."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from model_constructor.config.nodes import UNKNOWN
from model_constructor.config.resolve import ResolvedConfig
from model_constructor.config.schema import FORMS
from model_constructor.config.source_map import ConfigPath
from model_constructor.graph.ir import GraphIR, ModuleIR
from model_constructor.graph.names import is_name, name_list
from model_constructor.graph.steps import StepReader
from model_constructor.instantiate.spec import Scope, check_value, is_spec
from model_constructor.registry.registry import Registry
from model_constructor.util.problems import Problems
from model_constructor.util.suggest import closest

_SEQUENTIAL_KEYS = ("inputs", "layers", "outputs", "return")
_GRAPH_KEYS = ("inputs", "modules", "nodes", "steps", "order", "outputs", "return")
_POLICIES = ("single", "tuple", "dict")
# `ModuleDict` refuses names under which it has attributes itself.
_TAKEN = frozenset(dir(nn.ModuleDict()))


def compile_ir(config: ResolvedConfig, registry: Registry) -> GraphIR:
    """The checked graph of a resolved configuration whose imports are applied.

    Raises:
        ConfigError: with every mistake in specs, calls, references and outputs.
    """
    problems = Problems()
    ir = compile_with(config, registry, problems)
    problems.raise_all(config.settings.error_context_lines)
    assert ir is not None, "no graph only ever comes with a mistake"
    return ir


def compile_with(config: ResolvedConfig, registry: Registry, problems: Problems) -> GraphIR | None:
    """As `compile_ir`, noting mistakes; `None` when there is no graph to speak of."""
    scope = Scope(registry, config.settings, config.source_map)
    model = config.data.get("model")
    forms = [form for form in FORMS if form in model] if isinstance(model, dict) else []
    if len(forms) != 1:
        return None
    data = config.data["model"][forms[0]]
    if not isinstance(data, dict):
        return None
    graph = _Graph(data, ("model", forms[0]), scope, problems)
    return graph.compile() if forms[0] == "graph" else graph.compile_sequential()


class _Graph:
    def __init__(self, data: dict[str, Any], path: ConfigPath, scope: Scope, problems: Problems) -> None:
        self.data = data
        self.path = path
        self.scope = scope
        self.problems = problems

    def compile(self) -> GraphIR:
        misspelt = self._check_keys(_GRAPH_KEYS)
        inputs = self._inputs(self.data.get("inputs"))
        modules = self._modules()
        reader = StepReader(self.scope, self.problems, inputs, modules)
        reader.surely_all_values = isinstance(self.data.get("inputs"), list)
        self._read_steps(reader)
        if "outputs" not in self.data and "outputs" not in misspelt:
            self._wrong("'outputs' is missing", ())
        return self._ir(inputs, modules, reader, None)

    def compile_sequential(self) -> GraphIR | None:
        self._check_keys(_SEQUENTIAL_KEYS)
        inputs = self._inputs(self.data.get("inputs", ["x"]))
        if len(inputs) > 1:
            self._wrong("a sequential model has one input; several need 'graph'", ("inputs",))
        layers = self.data.get("layers")
        if not isinstance(layers, list) or not layers:
            if layers is not UNKNOWN:
                self._wrong("'layers' must be a non-empty list of specs", ("layers",), near="layers")
            return None
        modules: dict[str, ModuleIR] = {}
        for index, spec in enumerate(layers):
            self._module(f"layer{index}", spec, ("layers", index), modules)
        reader = StepReader(self.scope, self.problems, inputs, modules)
        reader.surely_all_values = bool(inputs)
        value = inputs[0] if inputs else "x"
        for index in range(len(layers)):
            reader.call_layer(f"layer{index}", value, f"h{index}", (*self.path, "layers", index))
            value = f"h{index}"
        return self._ir(inputs, modules, reader, [value])

    def _wrong(self, message: str, at: ConfigPath, near: str | None = None, key: bool = False) -> None:
        path = (*self.path, *at)
        location = self.scope.at_key(path) if key else self.scope.at(path)
        self.problems.add(message, path, location, closest(near, self.data) if near else ())

    def _check_keys(self, known: tuple[str, ...]) -> set[str]:
        """Note the keys that are not known, and return those that were perhaps meant."""
        meant: set[str] = set()
        for key in self.data:
            if key not in known:
                path = (*self.path, key)
                message = f"Unknown key '{key}' in {self.path[-1]}"
                near = closest(key, known)
                self.problems.add(message, path, self.scope.at_key(path), near)
                meant.update(near)
        return meant

    def _inputs(self, inputs: Any) -> list[str]:
        names = name_list(inputs, (*self.path, "inputs"), "inputs", self.scope, self.problems)
        for index, name in enumerate(names):
            if name in names[:index]:
                self._wrong(f"input '{name}' is listed twice", ("inputs", index))
        return names

    def _modules(self) -> dict[str, ModuleIR]:
        specs = self.data.get("modules")
        modules: dict[str, ModuleIR] = {}
        if isinstance(specs, dict):
            for name, spec in specs.items():
                self._module(name, spec, ("modules", name), modules)
        elif specs is not None and specs is not UNKNOWN:
            self._wrong("'modules' must be a mapping from names to specs", ("modules",))
        return modules

    def _module(self, name: str, spec: Any, at: ConfigPath, modules: dict[str, ModuleIR]) -> None:
        path = (*self.path, *at)
        if not is_name(name):
            self._wrong(f"'{name}' is no valid module name", at, key=True)
        elif name in _TAKEN:
            self._wrong(f"a module cannot be called '{name}', torch uses that name itself", at, key=True)
        if is_spec(spec):
            check_value(spec, path, self.scope, self.problems)
        elif spec is not UNKNOWN:
            near = closest("_type_", spec) if isinstance(spec, dict) else []
            self.problems.add("a module needs a spec with '_type_'", path, self.scope.at(path), near)
        modules[name] = ModuleIR(spec if isinstance(spec, dict) else {}, path, self.scope.at(path))

    def _read_steps(self, reader: StepReader) -> None:
        given = [key for key in ("nodes", "steps") if key in self.data]
        if len(given) != 1:
            self._wrong("'graph' needs exactly one of 'nodes' and 'steps'", (), near="nodes")
            reader.surely_all_values = False
            return
        key, steps = given[0], self.data[given[0]]
        path = (*self.path, key)
        if "order" in self.data and not isinstance(steps, dict):
            self._wrong("'order' only goes with nodes written as a mapping", ("order",), key=True)
        if steps is UNKNOWN:
            reader.surely_all_values = False
        elif isinstance(steps, list):
            if key == "steps" and not steps:
                self._wrong("'steps' must not be empty", ("steps",))
            for index, step in enumerate(steps):
                reader.read(step, (*path, index), named=key == "nodes")
        elif isinstance(steps, dict) and key == "nodes":
            for name in self._order(steps, reader):
                reader.read(steps[name], (*path, name), named=True, name=name)
        else:
            wanted = "a list" if key == "steps" else "a list, or a mapping with 'order'"
            self._wrong(f"'{key}' must be {wanted}", (key,))
            reader.surely_all_values = False

    def _order(self, nodes: dict[str, Any], reader: StepReader) -> list[str]:
        order = self.data.get("order")
        if order is None:
            self._wrong("a mapping of nodes requires 'order', the list of their names", ("nodes",), key=True)
        if not isinstance(order, list):
            if order is not None and order is not UNKNOWN:
                self._wrong("'order' must be a list of node names", ("order",))
            return list(nodes)
        listed: list[str] = []
        for index, name in enumerate(order):
            path = (*self.path, "order", index)
            if name is UNKNOWN:
                reader.surely_all_values = False
            elif not isinstance(name, str) or name not in nodes:
                near = closest(name, nodes, 5) if isinstance(name, str) else []
                self.problems.add(
                    f"'order' lists {name!r}, but there is no such node", path, self.scope.at(path), near
                )
            elif name in listed:
                self._wrong(f"'order' lists '{name}' twice", ("order", index))
            else:
                listed.append(name)
        for name in nodes:
            if name not in listed and reader.surely_all_values:
                self._wrong(f"node '{name}' is not in 'order'", ("nodes", name), key=True)
        return listed

    def _ir(
        self,
        inputs: list[str],
        modules: dict[str, ModuleIR],
        reader: StepReader,
        default: list[str] | None,
    ) -> GraphIR:
        outputs = self._outputs(self.data.get("outputs", default), reader)
        policy = self._return_policy(outputs)
        return GraphIR(inputs, modules, reader.steps, outputs, policy, reader.ops)

    def _outputs(self, outputs: Any, reader: StepReader) -> list[str] | dict[str, str]:
        path = (*self.path, "outputs")
        if outputs is None or outputs is UNKNOWN:
            if outputs is None and "outputs" in self.data:
                self._wrong("'outputs' must be a list of names or a mapping to names", ("outputs",))
            return []
        if isinstance(outputs, dict):
            if not outputs:
                self._wrong("'outputs' must not be empty", ("outputs",))
            return {key: self._output(name, (*path, key), reader) for key, name in outputs.items()}
        if not isinstance(outputs, list) or not outputs:
            self._wrong("'outputs' must be a non-empty list of names or a mapping to names", ("outputs",))
            return []
        return [self._output(name, (*path, index), reader) for index, name in enumerate(outputs)]

    def _output(self, name: Any, path: ConfigPath, reader: StepReader) -> str:
        if isinstance(name, str):
            name = name.removeprefix("$")
        if not is_name(name):
            if name is not UNKNOWN:
                self.problems.add("an output must be a value's name", path, self.scope.at(path))
            return ""
        reader.check_available([name], path, "Output(s) not available")
        return name

    def _return_policy(self, outputs: list[str] | dict[str, str]) -> Literal["single", "tuple", "dict"]:
        policy = self.data.get("return")
        if policy is None or policy is UNKNOWN:
            if isinstance(outputs, dict):
                return "dict"
            return "single" if len(outputs) == 1 else "tuple"
        if policy not in _POLICIES:
            path = (*self.path, "return")
            near = closest(policy, _POLICIES) if isinstance(policy, str) else []
            message = f"'return' is one of {', '.join(_POLICIES)}, not {policy!r}"
            self.problems.add(message, path, self.scope.at(path), near)
        elif (policy == "dict") != isinstance(outputs, dict) and outputs:
            form = "a mapping" if policy == "dict" else "a list"
            self._wrong(f"'return: {policy}' needs {form} under 'outputs'", ("return",))
        elif policy == "single" and len(outputs) > 1:
            self._wrong(f"'return: single' needs exactly one output, not {len(outputs)}", ("return",))
        return policy
