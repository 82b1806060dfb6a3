"""Which torch the package works with."""

from __future__ import annotations

import torch

from model_constructor.errors import CompatibilityError

MIN_TORCH_VERSION = (2, 4)


def check_compatibility() -> None:
    """Raise `CompatibilityError` when the installed torch is older than `MIN_TORCH_VERSION`."""
    parts = torch.__version__.split("+")[0].split(".")
    installed = (int(parts[0]), int(parts[1]))
    if installed < MIN_TORCH_VERSION:
        wanted = ".".join(map(str, MIN_TORCH_VERSION))
        raise CompatibilityError(f"torch {torch.__version__} is installed; {wanted} or later is needed")
