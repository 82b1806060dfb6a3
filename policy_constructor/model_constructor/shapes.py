"""Inputs of a component, made from the `shapes` block of its YAML.

`shapes` is a free top-level key that names every graph input:

* `[B, 2, 39]`: a float tensor; the first entry is the letter B, the batch size;
* a list of such shapes: a list of tensors; a mapping of names to shapes: a dict of tensors;
* anything else, such as `true`, `null` or `[18, 23]`: a constant, passed as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from model_constructor.errors import ConfigError

BATCH = "B"


def example_inputs(
    data: Mapping[str, Any],
    inputs: Sequence[str],
    *,
    batch_size: int = 2,
    device: torch.device | str = "meta",
) -> dict[str, Any]:
    """Return a value for every graph input.

    Args:
        data: a resolved configuration, with its `shapes`.
        inputs: names of the graph inputs.
        batch_size: what B stands for.
        device: where the tensors are made; on `meta` nothing is allocated, elsewhere they are uniform in
            [0, 1).

    Raises:
        ConfigError: when `shapes` is missing, leaves an input out, names another, or holds a malformed shape.
    """
    shapes = data.get("shapes")
    if not isinstance(shapes, Mapping):
        raise ConfigError(
            "the file has no 'shapes' that say how large its inputs are", config_path=("shapes",)
        )
    missing = [name for name in inputs if name not in shapes]
    unknown = [name for name in shapes if name not in inputs]
    if missing:
        raise ConfigError(f"'shapes' leaves out {', '.join(missing)}", config_path=("shapes",))
    if unknown:
        raise ConfigError(
            f"'shapes' names {', '.join(unknown)}, which the graph does not take", config_path=("shapes",)
        )
    return {name: _example(shapes[name], ("shapes", name), batch_size, device) for name in inputs}


def _example(shape: Any, path: tuple[str | int, ...], batch_size: int, device: torch.device | str) -> Any:
    if isinstance(shape, Mapping):
        return {name: _example(part, (*path, name), batch_size, device) for name, part in shape.items()}
    if not isinstance(shape, list):
        return shape
    if any(isinstance(part, (list, Mapping)) for part in shape):
        return [_example(part, (*path, index), batch_size, device) for index, part in enumerate(shape)]
    if BATCH not in shape:
        return list(shape)
    sizes = shape[1:]
    if shape[0] != BATCH or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ConfigError(f"a shape is [B, n, …] with positive n, not {shape}", config_path=path)
    return torch.rand([batch_size, *sizes], device=device)


def describe(value: Any) -> str:
    """Say in a few characters what goes into or comes out of a component."""
    if isinstance(value, torch.Tensor):
        return f"({', '.join(str(size) for size in value.shape)})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {describe(part)}" for name, part in value.items()) + "}"
    if isinstance(value, tuple):
        return "(" + ", ".join(describe(part) for part in value) + ")"
    if isinstance(value, list) and any(isinstance(part, torch.Tensor) for part in value):
        return "[" + ", ".join(describe(part) for part in value) + "]"
    return "null" if value is None else str(value)
