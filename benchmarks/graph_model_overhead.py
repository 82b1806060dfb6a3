"""What calling a ten-layer GraphModel costs beside the same layers called by hand and beside an interpreter.

    OMP_NUM_THREADS=1 python benchmarks/graph_model_overhead.py

The contenders take turns in short rounds (A B C, C B A, …) in one process, so that a machine that slows down
slows all of them; the ratio of a round compares neighbours in time, and the median over the rounds is
reported. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from model_constructor import build_model
from model_constructor.graph.ir import Ref, StepIR
from model_constructor.graph.model import GraphModel
from torch import Tensor, nn

LAYERS, WIDTH = 10, 64


class Interpreter(nn.Module):
    """Walks the steps on every call: a table of values, references looked up, a guard round each step."""

    def __init__(self, modules: nn.ModuleDict, inputs: list[str], steps: list[StepIR], output: str) -> None:
        super().__init__()
        self.graph_modules = modules
        self.inputs, self.steps, self.output = inputs, steps, output

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Bind the inputs by name, run the steps, return the output."""
        values: dict[str, Any] = {}
        rest = iter(args)
        for name in self.inputs:
            values[name] = kwargs[name] if name in kwargs else next(rest)
        for index, step in enumerate(self.steps):
            try:
                arguments = [self.resolve(value, values) for value in step.args]
                options = {key: self.resolve(value, values) for key, value in step.kwargs.items()}
                result = self.graph_modules[step.call_name](*arguments, **options)
            except Exception as error:
                raise RuntimeError(f"step {index} failed") from error
            assert isinstance(step.out, str)
            assert step.out not in values
            values[step.out] = result
        return values[self.output]

    def resolve(self, value: Any, values: dict[str, Any]) -> Any:
        """An argument with the values that it refers to, at any depth."""
        if isinstance(value, Ref):
            return values[value.name]
        if isinstance(value, list):
            return [self.resolve(item, values) for item in value]
        if isinstance(value, dict):
            return {key: self.resolve(item, values) for key, item in value.items()}
        return value


def contenders() -> dict[str, Callable[[Tensor], Tensor]]:
    """The graph, the same modules in a loop, and the same modules in an interpreter."""
    layer = {"_type_": "nn.Linear", "in_features": WIDTH, "out_features": WIDTH}
    model: GraphModel = build_model(
        {"schema_version": 1, "model": {"sequential": {"layers": [layer] * LAYERS}}}
    )
    layers = list(model.graph_modules.values())
    steps = [
        StepIR("module", f"layer{index}", [Ref(f"h{index - 1}" if index else "x")], {}, f"h{index}", ())
        for index in range(LAYERS)
    ]
    interpreter = Interpreter(model.graph_modules, ["x"], steps, f"h{LAYERS - 1}")

    def by_hand(x: Tensor) -> Tensor:
        for module in layers:
            x = module(x)
        return x

    return {"by_hand": by_hand, "graph_model": model, "interpreter": interpreter}


def measure(batch: int, rounds: int, calls: int, grad: bool) -> dict[str, float]:
    """Median microseconds of each contender, and median ratios to the calls by hand, over all rounds."""
    torch.manual_seed(0)
    functions = contenders()
    x = torch.randn(batch, WIDTH)
    times: dict[str, list[float]] = {name: [] for name in functions}
    with torch.set_grad_enabled(grad):
        reference = functions["by_hand"](x)
        assert all(torch.equal(function(x), reference) for function in functions.values())
        for turn in range(rounds + 3):
            order = list(functions) if turn % 2 == 0 else list(reversed(functions))
            for name in order:
                function = functions[name]
                start = time.perf_counter()
                for _ in range(calls):
                    function(x)
                if turn >= 3:  # the first rounds warm caches and the interpreter's own specialization
                    times[name].append((time.perf_counter() - start) / calls * 1e6)
    result = {f"{name}_us": round(statistics.median(values), 2) for name, values in times.items()}
    for name in ("graph_model", "interpreter"):
        ratios = [value / hand for value, hand in zip(times[name], times["by_hand"], strict=True)]
        result[f"{name}_ratio"] = round(statistics.median(ratios), 4)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--calls", type=int, default=100, help="calls of each contender in a round")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"torch": torch.__version__, "python": platform.python_version()}
    for batch in (1, 64):
        for grad in (False, True):
            name = f"batch {batch}, {'with' if grad else 'without'} autograd"
            result[name] = measure(batch, arguments.rounds, arguments.calls, grad)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
