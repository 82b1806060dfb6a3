"""The two calls that turn a model YAML into a checked graph and into a module."""

from __future__ import annotations

from torch import nn

from model_constructor.compat import check_compatibility
from model_constructor.config.resolve import ConfigSource, ResolvedConfig, resolve_with
from model_constructor.errors import ConfigError
from model_constructor.graph.calls import check_calls
from model_constructor.graph.compiler import compile_with
from model_constructor.graph.ir import GraphIR
from model_constructor.graph.model import GraphModel
from model_constructor.instantiate.instantiate import instantiate_module_spec
from model_constructor.instantiate.spec import Scope
from model_constructor.registry.registry import Registry
from model_constructor.util.imports import apply_imports
from model_constructor.util.problems import Problems

__all__ = ["build_model", "compile_ir"]


def build_model(config_or_path: ConfigSource, *, registry: Registry | None = None) -> GraphModel:
    """The module that a model YAML (or a dict of the same form) describes.

    Modules are made in the order in which they are declared, on torch's current default device: under
    `with torch.device("meta")` nothing is allocated.

    Args:
        config_or_path: the file, or the data.
        registry: where types and operations are looked up; the process's own when not given.

    Raises:
        ConfigError: with every mistake that was found.
        CompatibilityError: when torch is too old.
    """
    check_compatibility()
    registry = _default() if registry is None else registry
    config, ir = _compile(config_or_path, registry)
    scope = Scope(registry, config.settings, config.source_map)
    problems = Problems()
    modules: dict[str, nn.Module] = {}
    for name, module in ir.modules.items():
        with problems.collect():
            modules[name] = instantiate_module_spec(module.spec, module.origin_path, scope)
    check_calls(ir, modules, scope, problems)
    problems.raise_all(config.settings.error_context_lines)
    return GraphModel(ir, modules)


def compile_ir(config_or_path: ConfigSource, *, registry: Registry | None = None) -> GraphIR:
    """The checked graph; `imports` run, nothing is built.

    Raises:
        ConfigError: with every mistake that was found.
    """
    return _compile(config_or_path, _default() if registry is None else registry)[1]


def _default() -> Registry:
    from model_constructor.registry.default_registry import get_default_registry

    return get_default_registry()


def _compile(config_or_path: ConfigSource, registry: Registry) -> tuple[ResolvedConfig, GraphIR]:
    problems = Problems()
    config = resolve_with(config_or_path, problems)
    before = len(problems)
    apply_imports(config, registry, problems)
    if len(problems) > before:
        # Types of a module that was not imported would all seem unknown.
        problems.raise_all(config.settings.error_context_lines)
    try:
        ir = compile_with(config, registry, problems)
    except RecursionError:
        raise ConfigError("the model's specs are nested too deeply", config_path=("model",)) from None
    problems.raise_all(config.settings.error_context_lines)
    assert ir is not None, "no graph only ever comes with a mistake"
    return config, ir
