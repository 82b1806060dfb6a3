"""Builds what specs describe, innermost first."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from model_constructor.config.source_map import ConfigPath
from model_constructor.errors import ConfigError
from model_constructor.instantiate.spec import Scope, check_value, is_spec, read_spec
from model_constructor.util.problems import Problems


def instantiate_value(value: Any, path: ConfigPath, scope: Scope) -> Any:
    """`value` with every spec in it built; the whole of it is checked before the first one is.

    Raises:
        ConfigError: for wrong specs, all at once; for a constructor that fails, with its error as the cause.
    """
    problems = Problems()
    check_value(value, path, scope, problems)
    problems.raise_all()
    return _build(value, path, scope)


def instantiate_module_spec(spec: dict[str, Any], path: ConfigPath, scope: Scope) -> nn.Module:
    """The module that `spec` describes.

    Raises:
        ConfigError: as `instantiate_value`, and when the result is no `nn.Module`.
    """
    module = instantiate_value(spec, path, scope)
    if not isinstance(module, nn.Module):
        raise ConfigError(
            f"Spec did not produce a torch.nn.Module (got {type(module).__name__})",
            config_path=path,
            location=scope.at(path),
        )
    return module


def _build(value: Any, path: ConfigPath, scope: Scope) -> Any:
    if isinstance(value, list):
        return [_build(child, (*path, index), scope) for index, child in enumerate(value)]
    if not isinstance(value, dict):
        return value
    if not is_spec(value):
        return {key: _build(child, (*path, key), scope) for key, child in value.items()}
    spec = read_spec(value, path, scope, Problems())
    assert spec.target is not None, "checked before anything is built"
    args = [_build(child, at, scope) for child, at in spec.args]
    kwargs = {key: _build(child, at, scope) for key, (child, at) in spec.kwargs.items()}
    try:
        return spec.target(*args, **kwargs)
    except (MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:
        raise ConfigError(
            f"Instantiation failed: {spec.name}: {error or type(error).__name__}",
            config_path=path,
            location=scope.at(path),
        ) from error
