"""The registry that models are built from when no other is given."""

from __future__ import annotations

import functools

from model_constructor.blocks.register import register_blocks
from model_constructor.registry.builtins import register_builtins
from model_constructor.registry.registry import Registry


@functools.cache
def get_default_registry() -> Registry:
    """The one registry of the process, with torch's modules, the operations and all blocks in it."""
    registry = Registry()
    register_builtins(registry)
    register_blocks(registry)
    return registry
