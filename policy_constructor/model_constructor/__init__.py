"""Policies described in YAML become torch modules: `build_model("model.yaml")`.

Importing the package imports neither torch nor any block; what is asked for is loaded when it is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model_constructor.api import build_model, compile_ir
    from model_constructor.blocks.vision.weights import without_pretrained_weights
    from model_constructor.config.resolve import resolve_config
    from model_constructor.random import random_source
    from model_constructor.registry.registry import Registry

__all__ = [
    "Registry",
    "build_model",
    "compile_ir",
    "random_source",
    "resolve_config",
    "without_pretrained_weights",
]

_HOMES = {
    "Registry": "model_constructor.registry.registry",
    "build_model": "model_constructor.api",
    "compile_ir": "model_constructor.api",
    "random_source": "model_constructor.random",
    "resolve_config": "model_constructor.config.resolve",
    "without_pretrained_weights": "model_constructor.blocks.vision.weights",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'model_constructor' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
