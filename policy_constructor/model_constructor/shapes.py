"""Inputs of a component, made from the `shapes` block of its YAML.

`shapes` is a free top-level key that names every graph input:

* `[B, 2, 39]`: a float tensor; B is the batch size;
* a list or a mapping of such: a list or a dict of tensors;
* anything else, such as `true`, `null` or `[18, 23]`: a constant, passed as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from model_constructor.errors import ConfigError

BATCH = "B"


def inputs_from_shapes(
    shapes: Any, *, batch_size: int, device: torch.device | str = "meta"
) -> dict[str, Any]:
    """Return the inputs that a `shapes` block describes; a block of another form describes none.

    Args:
        shapes: the block, resolved.
        batch_size: what B stands for.
        device: where the tensors are made: on `meta` nothing is allocated, elsewhere they are uniform in
            [0, 1).
    """
    if not isinstance(shapes, Mapping):
        return {}
    return {name: _value(shape, batch_size, device) for name, shape in shapes.items()}


def _value(shape: Any, batch_size: int, device: torch.device | str) -> Any:
    if isinstance(shape, Mapping):
        return {name: _value(part, batch_size, device) for name, part in shape.items()}
    if not isinstance(shape, list):
        return shape
    sizes = [batch_size if size == BATCH else size for size in shape]
    if BATCH in shape and all(isinstance(size, int) and size >= 0 for size in sizes):
        return torch.rand(sizes, device=device)
    return [_value(part, batch_size, device) for part in shape]


def example_inputs(
    data: Mapping[str, Any],
    inputs: Sequence[str],
    *,
    batch_size: int = 2,
    device: torch.device | str = "meta",
) -> dict[str, Any]:
    """Return a value for every graph input of a component that promises to describe them all.

    Args:
        data: a resolved configuration, with its `shapes`.
        inputs: names of the graph inputs.
        batch_size: what B stands for.
        device: as in `inputs_from_shapes`.

    Raises:
        ConfigError: when `shapes` is missing, leaves an input out, or names another.
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
    return inputs_from_shapes(shapes, batch_size=batch_size, device=device)
