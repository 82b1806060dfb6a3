"""Reads the calls of a graph one after the other, keeping account of the values that exist."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from model_constructor.config.nodes import UNKNOWN
from model_constructor.config.source_map import ConfigPath
from model_constructor.errors import ConfigError
from model_constructor.graph.ir import CallKind, ModuleIR, Ref, StepIR
from model_constructor.graph.names import is_name, with_refs
from model_constructor.instantiate.signature import validate_kwargs
from model_constructor.instantiate.spec import Scope
from model_constructor.util.problems import Problems
from model_constructor.util.suggest import closest

_KEYS = ("name", "call", "args", "kwargs", "out")


class StepReader:
    """Collects steps.

    Attributes:
        steps: those read so far.
        ops: functions of the operations that they call.
        surely_all_values: false once a step could not be read fully, so that a missing value may be its.
    """

    def __init__(
        self, scope: Scope, problems: Problems, inputs: list[str], modules: dict[str, ModuleIR]
    ) -> None:
        self.scope = scope
        self.problems = problems
        self.modules = modules
        self.steps: list[StepIR] = []
        self.ops: dict[str, Callable[..., Any]] = {}
        self.surely_all_values = True
        self._values: set[str] = set(inputs)

    def call_layer(self, module: str, value: str, out: str, path: ConfigPath) -> None:
        """Add the call of a sequential model's layer."""
        self.steps.append(StepIR("module", module, [Ref(value)], {}, out, path, self.scope.at(path)))
        self._produce(self.steps[-1], path)

    def check_available(self, names: list[str], path: ConfigPath, message: str) -> None:
        """Note the names that no input and no step so far stands for."""
        missing = [name for name in names if name not in self._values]
        if missing and self.surely_all_values:
            near = closest(missing[0], self._values, 5)
            self.problems.add(f"{message}: {missing}", path, self.scope.at(path), near)

    def read(self, data: Any, path: ConfigPath, *, named: bool, name: str | None = None) -> None:
        """Read one node (`named`; from a mapping its name comes from outside) or one step."""
        if not isinstance(data, dict):
            if data is not UNKNOWN:
                self._wrong(f"a {'node' if named else 'step'} must be a mapping", path)
            self.surely_all_values = False
            return
        known = _KEYS if named and name is None else _KEYS[1:]
        for key in data:
            if key not in known:
                at = (*path, key)
                what = "node" if named else "step"
                self.problems.add(
                    f"Unknown key '{key}' in a {what}", at, self.scope.at_key(at), closest(key, known)
                )
        if named:
            name = self._name(data, path, name)
        call = self._call(data, path)
        args, kwargs = self._arguments(data, path)
        out = self._out(data, path, name)
        if out is None:
            self.surely_all_values = False
        if call is None or out is None:
            for value in self._names(out):
                self._values.add(value)
            return
        kind, target = call
        if kind == "op":
            self._check_op_arguments(target, args, kwargs, path)
        step = StepIR(
            "op" if kind == "op" else "module", target, args, kwargs, out, path, self.scope.at(path)
        )
        self.steps.append(step)
        self._produce(step, path)

    @staticmethod
    def _names(out: str | list[str] | dict[str, str] | None) -> list[str]:
        if out is None or isinstance(out, str):
            return [] if out is None else [out]
        return list(out.values()) if isinstance(out, dict) else out

    def _wrong(self, message: str, path: ConfigPath) -> None:
        self.problems.add(message, path, self.scope.at(path))

    def _produce(self, step: StepIR, path: ConfigPath) -> None:
        produced = step.produced
        taken = [
            name for index, name in enumerate(produced) if name in self._values or name in produced[:index]
        ]
        if taken:
            taken = sorted(set(taken))
            at = (*path, "out") if self.scope.source_map.get((*path, "out")) else path
            named = self.scope.source_map.get((*path, "name"))
            message = f"Output name collision(s): {taken} exist already"
            self.problems.add(message, at, named if at == path and named else self.scope.at(at))
        self._values.update(produced)

    def _name(self, data: dict[str, Any], path: ConfigPath, name: str | None) -> str | None:
        at = path if name is not None else (*path, "name")
        if name is None:
            if "name" not in data:
                self._wrong("a node needs 'name'", path)
                return None
            name = data["name"]
        if is_name(name):
            return name
        if name is not UNKNOWN:
            self._wrong(f"{name!r} is no valid node name", at)
        return None

    def _call(self, data: dict[str, Any], path: ConfigPath) -> tuple[CallKind, str] | None:
        at = (*path, "call")
        call = data.get("call")
        if call is UNKNOWN:
            return None
        if "call" not in data:
            if not closest("call", (key for key in data if key not in _KEYS)):  # else it is misspelt
                self._wrong("'call' is missing: module:<name> or op:<name>", path)
            return None
        kind, colon, target = call.partition(":") if isinstance(call, str) else ("", "", "")
        if not colon or kind not in ("module", "op") or not target:
            self._wrong(f"'call' has the form module:<name> or op:<name>, not {call!r}", at)
            return None
        if kind == "module":
            if target in self.modules:
                return "module", target
            near = [f"module:{near}" for near in closest(target, self.modules, 5)]
            self.problems.add(f"Unknown module '{target}'", at, self.scope.at(at), near)
            return None
        try:
            entry = self.scope.registry.get_op(target, config_path=at, location=self.scope.at(at))
        except ConfigError as error:
            self.problems.take(error)
            return None
        self.ops[target] = entry.target
        return "op", target

    def _arguments(self, data: dict[str, Any], path: ConfigPath) -> tuple[list[Any], dict[str, Any]]:
        args, kwargs = data.get("args"), data.get("kwargs")
        args = [] if args is None else args
        kwargs = {} if kwargs is None else kwargs
        if not isinstance(args, list):
            if args is not UNKNOWN:
                self._wrong("'args' must be a list", (*path, "args"))
            args = []
        if not isinstance(kwargs, dict):
            if kwargs is not UNKNOWN:
                self._wrong("'kwargs' must be a mapping", (*path, "kwargs"))
            kwargs = {}
        found: dict[str, ConfigPath] = {}
        wrong: list[ConfigPath] = []
        args = with_refs(args, (*path, "args"), found, wrong)
        kwargs = with_refs(kwargs, (*path, "kwargs"), found, wrong)
        for at in wrong:
            self._wrong("a reference has the form $name; literal text begins with $$", at)
        for name, at in found.items():
            self.check_available([name], at, "Forward reference(s) not allowed")
        return args, kwargs

    def _check_op_arguments(self, op: str, args: list[Any], kwargs: dict[str, Any], path: ConfigPath) -> None:
        try:
            found = validate_kwargs(self.scope.registry.get_op(op), len(args), kwargs)
        except ConfigError as error:
            self._wrong(error.message, path)
            return
        for mismatch in found:
            at = path if mismatch.keyword is None else (*path, "kwargs", mismatch.keyword)
            location = self.scope.at_key(at)
            self.problems.add(f"op '{op}': {mismatch.message}", at, location, mismatch.suggestions)

    def _out(
        self, data: dict[str, Any], path: ConfigPath, name: str | None
    ) -> str | list[str] | dict[str, str] | None:
        at = (*path, "out")
        if "out" not in data:
            if name is None and "name" not in data:
                self._wrong("a step needs 'out', the name of its result", path)
            return name
        out = data["out"]
        if out is UNKNOWN:
            return None
        if is_name(out):
            return out
        items: list[Any]
        if isinstance(out, dict) and out:
            items = list(out.values())
        elif isinstance(out, list) and out:
            items = out
        else:
            self._wrong("'out' must be a name, a non-empty list of names or a mapping to names", at)
            return None
        places: list[str | int] = list(out) if isinstance(out, dict) else list(range(len(out)))
        for place, value in zip(places, items, strict=True):
            if not is_name(value) and value is not UNKNOWN:
                self._wrong(f"{value!r} in 'out' is no valid name", (*at, place))
        return out if all(is_name(value) for value in items) else None
