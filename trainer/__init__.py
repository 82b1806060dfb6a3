"""Trainer: one YAML file in, a trained imitation-learning policy out."""

from __future__ import annotations

import os
from typing import Any

# Waiting threads of torch sleep instead of spinning, unless the user chose: with few cores and other work on
# them, spinning ones take the time of those that compute (measured: five times slower). Torch reads it once.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
__all__ = ["__version__", "load_policy"]


def __getattr__(name: str) -> Any:
    """Import `load_policy` on first use, so that `import trainer` does not import torch."""
    if name == "load_policy":
        from trainer.deployment.robot_policy import load_policy

        return load_policy
    raise AttributeError(f"module 'trainer' has no attribute '{name}'")
