"""Policies described in YAML become torch modules: `build_model("model.yaml")`.

Importing the package imports neither torch nor any block; what is asked for is loaded when it is asked for.
What stands in `__all__` is its public face: models, the YAML that they are read from (positions, merging,
interpolation, mistakes), and the pictures of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from model_constructor.version import __version__

if TYPE_CHECKING:
    from model_constructor.api import build_model, compile_ir
    from model_constructor.blocks.vision.weights import without_pretrained_weights
    from model_constructor.config.defaults import defaults_entries, look_for_defaults_in
    from model_constructor.config.interpolate import interpolate_node, unread_params
    from model_constructor.config.merge import finish_merge, merge_nodes
    from model_constructor.config.nodes import UNKNOWN, Node, from_data, to_data
    from model_constructor.config.resolve import refuse_unread_params, resolve_config
    from model_constructor.config.source_map import ConfigPath, SourceLocation, SourceMap, format_path
    from model_constructor.config.yaml_loader import dump_yaml, files_like, load_yaml_node, parse_value
    from model_constructor.errors import ConfigError
    from model_constructor.graph.model import GraphModel
    from model_constructor.random import random_source
    from model_constructor.registry.default_registry import get_default_registry
    from model_constructor.registry.registry import Registry
    from model_constructor.show import describe, parse_input, render_svg, render_text
    from model_constructor.util.excerpt import excerpt
    from model_constructor.util.problems import Problems
    from model_constructor.util.suggest import closest, did_you_mean
    from model_constructor.util.trust import only_trusted

_HOMES = {
    "model_constructor.api": ("build_model", "compile_ir"),
    "model_constructor.blocks.vision.weights": ("without_pretrained_weights",),
    "model_constructor.config.defaults": ("defaults_entries", "look_for_defaults_in"),
    "model_constructor.config.interpolate": ("interpolate_node", "unread_params"),
    "model_constructor.config.merge": ("finish_merge", "merge_nodes"),
    "model_constructor.config.nodes": ("UNKNOWN", "Node", "from_data", "to_data"),
    "model_constructor.config.resolve": ("refuse_unread_params", "resolve_config"),
    "model_constructor.config.source_map": ("ConfigPath", "SourceLocation", "SourceMap", "format_path"),
    "model_constructor.config.yaml_loader": ("dump_yaml", "files_like", "load_yaml_node", "parse_value"),
    "model_constructor.errors": ("ConfigError",),
    "model_constructor.graph.model": ("GraphModel",),
    "model_constructor.random": ("random_source",),
    "model_constructor.registry.default_registry": ("get_default_registry",),
    "model_constructor.registry.registry": ("Registry",),
    "model_constructor.show": ("describe", "parse_input", "render_svg", "render_text"),
    "model_constructor.util.excerpt": ("excerpt",),
    "model_constructor.util.problems": ("Problems",),
    "model_constructor.util.suggest": ("closest", "did_you_mean"),
    "model_constructor.util.trust": ("only_trusted",),
}

__all__ = [
    "UNKNOWN",
    "ConfigError",
    "ConfigPath",
    "GraphModel",
    "Node",
    "Problems",
    "Registry",
    "SourceLocation",
    "SourceMap",
    "__version__",
    "build_model",
    "closest",
    "compile_ir",
    "defaults_entries",
    "describe",
    "did_you_mean",
    "dump_yaml",
    "excerpt",
    "files_like",
    "finish_merge",
    "format_path",
    "from_data",
    "get_default_registry",
    "interpolate_node",
    "load_yaml_node",
    "look_for_defaults_in",
    "merge_nodes",
    "only_trusted",
    "parse_input",
    "parse_value",
    "random_source",
    "refuse_unread_params",
    "render_svg",
    "render_text",
    "resolve_config",
    "to_data",
    "unread_params",
    "without_pretrained_weights",
]


def __getattr__(name: str) -> Any:
    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module 'model_constructor' has no attribute '{name}'")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value
