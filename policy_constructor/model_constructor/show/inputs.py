"""Input shapes as typed on a command line."""

from __future__ import annotations

import json
import re
from typing import Any

import torch

_SHAPE = re.compile(r"(\d+(?:x\d+)*)(?:/(\w+))?\Z")


def parse_input(text: str) -> tuple[str, Any]:
    """`name=2x16x7`, `name=2x5/int64`, `name=[2x3,2x4]` or `name:=JSON` as the input's name and value.

    Tensors stand on the meta device. Behind `:=` stands any JSON value: `training:=false`, `action:=null`.

    Raises:
        ValueError: for text of another form.
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(f"'{text}' has not the form name=2x16x7 or name:=JSON")
    if name.endswith(":"):
        try:
            return name[:-1].strip(), json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"'{value}' is no JSON: {error}") from None
    if value.startswith("[") and value.endswith("]"):
        return name.strip(), [_tensor(part.strip()) for part in value[1:-1].split(",")]
    return name.strip(), _tensor(value)


def _tensor(text: str) -> torch.Tensor:
    match = _SHAPE.match(text)
    if match is None:
        raise ValueError(f"'{text}' is no shape such as 2x16x7 or 2x16/int64")
    dtype = getattr(torch, match[2] or "float32", None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"torch has no dtype '{match[2]}'")
    return torch.empty([int(size) for size in match[1].split("x")], dtype=dtype, device="meta")
