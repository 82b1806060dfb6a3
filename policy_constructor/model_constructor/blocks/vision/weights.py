"""Getting the weights of others, or saying in one sentence how to get them."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch


class WeightsUnavailableError(RuntimeError):
    """Pretrained weights, or the package that reads them, are not here."""


def building_on_meta() -> bool:
    """Tell whether modules are being built without memory, so that there is nothing to load weights into."""
    return torch.get_default_device().type == "meta"


def optional_package(name: str, block: str, how: str) -> ModuleType:
    """Import a package that only some blocks need.

    Raises:
        WeightsUnavailableError: when it is not installed; `how` says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise WeightsUnavailableError(
            f"'{block}' needs the package '{name}', which is not installed: {how}"
        ) from error
