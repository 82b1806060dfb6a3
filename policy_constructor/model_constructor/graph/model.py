"""The module that a model YAML becomes."""

from __future__ import annotations

import copy
import itertools
import linecache
import weakref
from collections.abc import Mapping
from typing import Any, NoReturn

import torch.fx
from torch import nn

from model_constructor.errors import GraphInputError
from model_constructor.graph.codegen import generate
from model_constructor.graph.ir import GraphIR
from model_constructor.graph.lowering import lower
from model_constructor.graph.notes import explain
from model_constructor.graph.packing import pack, unpack
from model_constructor.util.suggest import did_you_mean

_numbers = itertools.count()


class GraphModel(torch.fx.GraphModule):
    """A `torch.fx.GraphModule` with one generated `forward`.

    Its arguments are the graph's inputs, in order; all are required. Parameters are found under
    `graph_modules.<name>.…`. When a step fails, its exception passes unchanged but for a note that names the
    step, its place in the YAML and the shapes that went in.

    Attributes:
        inputs: names of the inputs, in order.
        graph_modules: the modules by name.
        graph: the `torch.fx.Graph`; call `recompile()` after editing it.
        code: the text of `forward`.
    """

    inputs: list[str]
    graph_modules: nn.ModuleDict

    def __init__(self, ir: GraphIR, modules: Mapping[str, nn.Module]) -> None:
        super().__init__({}, torch.fx.Graph(), "GraphModel")
        self.inputs = list(ir.inputs)
        self.graph_modules = nn.ModuleDict(modules)
        self.graph = lower(ir)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph.

        Raises:
            GraphInputError: when the arguments do not fit the inputs.
            GraphExecutionError: when a step's result has another form than its `out` says.
        """
        try:
            return nn.Module.__call__(self, *args, **kwargs)
        except Exception as error:
            # Costs nothing while all goes well. `explain` is false when `forward` was not reached.
            if explain(error, type(self).forward, self._forward_code) or not isinstance(error, TypeError):
                raise
            if len(args) + len(kwargs) == len(self.inputs) and not self._binds(args, kwargs):
                # A keyword may stand for an input that a positional argument would have taken by its place.
                args, kwargs = self._by_place(args, kwargs), {}
            elif self._binds(args, kwargs):
                raise
            else:
                self._refuse(args, kwargs)
        return self(*args, **kwargs)

    def recompile(self) -> Any:
        """Write `forward` anew from `graph`.

        Returns:
            The `ForwardCode`.
        """
        generated = generate(self._graph)
        self._forward_code = generated
        self._code = generated.source
        # `torch.compile` reads these two of any fx module: which line below `def` is which node.
        index = {node: position for position, node in enumerate(self._graph.nodes)}
        self._lineno_map = {line - 1: index[node] for line, node in generated.steps.items()}
        self._prologue_start = 0
        filename = f"<GraphModel {next(_numbers)}>"
        namespace = dict(generated.namespace)
        exec(compile(generated.source, filename, "exec"), namespace)
        cls = type(self)
        cls.forward = namespace["forward"]
        # Lets tracebacks and debuggers show the generated lines for as long as the model lives.
        lines = generated.source.splitlines(keepends=True)
        linecache.cache[filename] = (len(generated.source), None, lines, filename)
        weakref.finalize(cls, linecache.cache.pop, filename, None)
        return generated

    def _binds(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether Python can call `forward` so."""
        parameters = self._forward_code.parameters
        by_name = set(parameters[len(args) :])
        return len(args) <= len(parameters) and set(kwargs) == by_name

    def _by_place(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """All inputs in order: those given by name, the others from the positional arguments in turn."""
        rest = iter(args)
        if set(kwargs) - set(self.inputs):
            self._refuse(args, kwargs)
        return tuple(kwargs[name] if name in kwargs else next(rest) for name in self.inputs)

    def _refuse(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> NoReturn:
        """Say how the arguments fail to fit the inputs."""
        inputs = f"the inputs are {', '.join(self.inputs)}"
        unknown = [name for name in kwargs if name not in self.inputs]
        if unknown:
            hint = did_you_mean(unknown[0], self.inputs, "the inputs are")
            raise GraphInputError(f"Unexpected kwargs: {unknown}; {hint}") from None
        places = [name for name in self.inputs if name not in kwargs]
        if len(args) > len(places):
            raise GraphInputError(
                f"Too many positional args: expected {len(places)}, got {len(args)}; {inputs}"
            ) from None
        missing = places[len(args) :]
        raise GraphInputError(
            f"Missing required input {', '.join(map(repr, missing))}; pass None where there is none"
        ) from None

    def __copy__(self) -> GraphModel:
        return restore(_state(self), pack(self._graph))

    def __deepcopy__(self, memo: dict[int, Any]) -> GraphModel:
        model = _empty()
        memo[id(self)] = model
        model.__dict__.update(copy.deepcopy(_state(self), memo))
        model.graph = unpack(copy.deepcopy(pack(self._graph), memo))
        return model

    def __reduce__(self) -> tuple[Any, ...]:
        return restore, (_state(self), pack(self._graph))


def _empty() -> GraphModel:
    model = GraphModel.__new__(GraphModel)
    nn.Module.__init__(model)
    type(model).__name__ = "GraphModel"
    return model


def _state(model: GraphModel) -> dict[str, Any]:
    """All of a model but what is made from its graph."""
    made = ("_graph", "_code", "_forward_code", "_compiled_call_impl")
    return {key: value for key, value in model.__dict__.items() if key not in made}


def restore(state: dict[str, Any], packed: list[Any]) -> GraphModel:
    """A model from its parts; what unpickling calls."""
    model = _empty()
    model.__dict__.update(state)
    model.graph = unpack(packed)
    return model
