"""Trainer: one YAML file in, a trained imitation-learning policy out."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "load_policy"]


def __getattr__(name: str) -> Any:
    """Import `load_policy` on first use, so that `import trainer` does not import torch."""
    if name == "load_policy":
        from trainer.engine.deployment import load_policy

        return load_policy
    raise AttributeError(f"module 'trainer' has no attribute '{name}'")
