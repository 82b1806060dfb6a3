"""Casting and moving tensors in nested containers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from trainer.utils.device import cast_dtype, move_to_device


class Pair(NamedTuple):
    first: torch.Tensor
    second: list[torch.Tensor]


@dataclass
class Box:
    value: torch.Tensor


def test_floats_are_cast_wherever_they_are_and_nothing_else() -> None:
    texts = ["push", "pull"]
    data = {
        "a": torch.ones(2, dtype=torch.float64),
        "pair": Pair(torch.ones(2, dtype=torch.float16), [torch.ones(1, dtype=torch.bfloat16)]),
        "box": Box(torch.arange(2)),
        "mask": torch.tensor([True]),
        "pixels": torch.zeros(2, dtype=torch.uint8),
        "task": texts,
        "number": 3.0,
    }
    cast = cast_dtype(data, torch.float32)
    assert cast["a"].dtype == cast["pair"].first.dtype == cast["pair"].second[0].dtype == torch.float32
    assert isinstance(cast["pair"], Pair)
    assert cast["box"].value.dtype == torch.int64
    assert cast["mask"].dtype == torch.bool
    assert cast["pixels"].dtype == torch.uint8
    assert cast["task"] is texts
    assert cast["number"] == 3.0
    assert data["a"].dtype == torch.float64


def test_all_tensors_are_moved() -> None:
    data = {"a": torch.ones(2), "pair": Pair(torch.ones(1), [torch.arange(3)]), "task": ["push"], "n": None}
    moved = move_to_device(data, "meta")
    assert moved["a"].device.type == "meta"
    assert moved["pair"].second[0].device.type == "meta"
    assert moved["task"] == ["push"]
    assert moved["n"] is None
