"""Compares the arguments of every step with the signature of the module that it calls."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from model_constructor.graph.ir import GraphIR
from model_constructor.instantiate.signature import mismatches
from model_constructor.instantiate.spec import Scope
from model_constructor.util.problems import Problems


def check_calls(ir: GraphIR, modules: Mapping[str, nn.Module], scope: Scope, problems: Problems) -> None:
    """Note the steps whose arguments the `forward` of their module cannot take."""
    for step in ir.steps:
        module = modules.get(step.call_name) if step.call_kind == "module" else None
        if module is None:
            continue
        for mismatch in mismatches(module.forward, len(step.args), step.kwargs) or []:
            path = step.origin_path
            if mismatch.keyword is not None:
                path = (*path, "kwargs", mismatch.keyword)
            problems.add(
                f"forward of '{step.call_name}': {mismatch.message}",
                path,
                scope.at_key(path),
                mismatch.suggestions,
            )
