"""Walking nested containers."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from trainer.utils.tree import tree_map


class Pair(NamedTuple):
    left: int
    right: int


@dataclasses.dataclass
class Box:
    content: list[int]


def test_every_leaf_is_mapped_and_every_container_kept() -> None:
    tree = {"a": [1, (2, 3)], "b": Pair(4, 5), "c": Box([6])}
    assert tree_map(lambda x: x * 10, tree) == {"a": [10, (20, 30)], "b": Pair(40, 50), "c": Box([60])}


def test_the_descent_stops_where_asked() -> None:
    assert tree_map(len, {"a": [1, 2], "b": [3]}, is_leaf=lambda x: isinstance(x, list)) == {"a": 2, "b": 1}
