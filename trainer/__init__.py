"""Trainer: one YAML file in, a trained imitation-learning policy out.

The names below are imported when they are first used, so that `import trainer` imports neither torch nor any
library that only training needs.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from model_constructor import __version__

from trainer.utils.import_utils import lazy_attributes, needs_training_libraries

if TYPE_CHECKING:
    from trainer.api import build_data, build_models, build_policy, evaluate, example_batch, train
    from trainer.config import load_config, validate_config
    from trainer.deployment.robot_policy import load_policy

# Waiting threads of torch sleep instead of spinning, unless the user chose: with few cores and other work on
# them, spinning ones take the time of those that compute (measured: five times slower). Torch reads it once.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__all__ = [
    "__version__",
    "build_data",
    "build_models",
    "build_policy",
    "evaluate",
    "example_batch",
    "load_config",
    "load_policy",
    "train",
    "validate_config",
]

_load = lazy_attributes(
    __name__,
    {
        "build_data": "trainer.api",
        "build_models": "trainer.api",
        "build_policy": "trainer.api",
        "evaluate": "trainer.api",
        "example_batch": "trainer.api",
        "load_config": "trainer.config",
        "load_policy": "trainer.deployment.robot_policy",
        "train": "trainer.api",
        "validate_config": "trainer.config",
    },
)


def __getattr__(name: str) -> Any:
    with needs_training_libraries(f"trainer.{name}"):
        return _load(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
