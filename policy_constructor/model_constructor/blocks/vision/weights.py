"""Getting the weights of others, or saying in one sentence how to get them."""

from __future__ import annotations

import contextlib
import contextvars
import importlib
from collections.abc import Iterator
from types import ModuleType

import torch


class WeightsUnavailableError(RuntimeError):
    """Pretrained weights, or the package that reads them, are not here."""


_unwanted = contextvars.ContextVar("pretrained_weights_unwanted", default=False)


@contextlib.contextmanager
def without_pretrained_weights() -> Iterator[None]:
    """Build models whose weights are loaded afterwards: those of others need not be fetched and read."""
    token = _unwanted.set(True)
    try:
        yield
    finally:
        _unwanted.reset(token)


def building_on_meta() -> bool:
    """Tell whether modules are being built without memory, so that there is nothing to load weights into."""
    return torch.get_default_device().type == "meta"


def weights_unwanted() -> bool:
    """Tell whether the weights of others would be overwritten, or have no memory to go to."""
    return _unwanted.get() or building_on_meta()


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
