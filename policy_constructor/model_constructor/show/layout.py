"""Places boxes in rows so that edges run downwards and cross seldom.

Sugiyama, Tagawa, Toda 1981, "Methods for Visual Understanding of Hierarchical System Structures": rows by
longest path, order within a row by barycentre, places along a row by least squares.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

_SWEEPS = 12


@dataclass
class Box:
    """A box to place; `x` is its centre and `y` its top once placed. Without an id it bends a long edge."""

    id: str
    width: float
    height: float
    row: int = 0
    x: float = 0.0
    y: float = 0.0


@dataclass(frozen=True)
class Layout:
    """Placed boxes, and each edge as the boxes that it runs through, its ends included."""

    boxes: list[Box]
    edges: list[list[Box]]
    width: float
    height: float


def place(
    boxes: Sequence[Box],
    edges: Sequence[tuple[str, str]],
    last: Sequence[str],
    *,
    gap: float = 28,
    row_gap: float = 40,
) -> Layout:
    """Place `boxes`, ordered so that all edges lead forward; those of `last` share the bottom row."""
    by_id = {box.id: box for box in boxes}
    above: dict[str, list[str]] = {box.id: [] for box in boxes}
    below: dict[str, list[str]] = {box.id: [] for box in boxes}
    for start, end in edges:
        above[end].append(start)
        below[start].append(end)
    for box in boxes:
        box.row = 1 + max((by_id[name].row for name in above[box.id]), default=-1)
    bottom = max(box.row for box in boxes)
    for box in reversed(boxes):
        if box.id in last:
            box.row = bottom
        elif not above[box.id] and below[box.id]:
            # An input stands right above its first use rather than far away at the top.
            box.row = min(by_id[name].row for name in below[box.id]) - 1
    rows: list[list[Box]] = [[] for _ in range(bottom + 1)]
    for box in boxes:
        rows[box.row].append(box)
    links: list[tuple[Box, Box]] = []
    routes: list[list[Box]] = []
    for start, end in edges:
        route = [by_id[start]]
        for row in range(by_id[start].row + 1, by_id[end].row):
            bend = Box("", 10, 0, row)
            rows[row].append(bend)
            route.append(bend)
        route.append(by_id[end])
        routes.append(route)
        links += itertools.pairwise(route)
    neighbours = _neighbours(rows, links)
    _order(rows, neighbours, links)
    _spread(rows, neighbours, gap)
    left = min(box.x - box.width / 2 for row in rows for box in row)
    y = 0.0
    for row_boxes in rows:
        height = max((box.height for box in row_boxes), default=0.0)
        for box in row_boxes:
            box.x -= left
            box.y = y + (height - box.height) / 2
        y += height + row_gap
    width = max(box.x + box.width / 2 for row in rows for box in row)
    return Layout(list(boxes), routes, width, y - row_gap)


_Neighbours = dict[int, tuple[list[Box], list[Box]]]


def _neighbours(rows: list[list[Box]], links: list[tuple[Box, Box]]) -> _Neighbours:
    """For each box those it is linked to in the row above and in the row below."""
    found: _Neighbours = {id(box): ([], []) for row in rows for box in row}
    for start, end in links:
        found[id(end)][0].append(start)
        found[id(start)][1].append(end)
    return found


def _order(rows: list[list[Box]], neighbours: _Neighbours, links: list[tuple[Box, Box]]) -> None:
    """Sort each row by where its neighbours stand, keeping the best of several sweeps."""
    best = [list(row) for row in rows]
    fewest = _crossings(rows, links)
    for sweep in range(_SWEEPS):
        side = sweep % 2
        for row in rows if side == 0 else reversed(rows):
            place_of = {id(box): index for other in rows for index, box in enumerate(other)}
            current = {id(box): float(index) for index, box in enumerate(row)}
            for box in row:
                near = neighbours[id(box)][side]
                if near:
                    current[id(box)] = sum(place_of[id(other)] for other in near) / len(near)
            row.sort(key=lambda box: current[id(box)])
        crossings = _crossings(rows, links)
        if crossings < fewest:
            fewest, best = crossings, [list(row) for row in rows]
    for row, kept in zip(rows, best, strict=True):
        row[:] = kept


def _crossings(rows: list[list[Box]], links: list[tuple[Box, Box]]) -> int:
    place_of = {id(box): index for row in rows for index, box in enumerate(row)}
    by_row: dict[int, list[tuple[int, int]]] = {}
    for start, end in links:
        by_row.setdefault(start.row, []).append((place_of[id(start)], place_of[id(end)]))
    return sum(
        (one[0] - two[0]) * (one[1] - two[1]) < 0
        for pairs in by_row.values()
        for index, one in enumerate(pairs)
        for two in pairs[:index]
    )


def _spread(rows: list[list[Box]], neighbours: _Neighbours, gap: float) -> None:
    """Draw each box towards the mean of its neighbours without touching the next one in its row."""
    for row in rows:
        x = 0.0
        for box in row:
            box.x = x + box.width / 2
            x += box.width + gap
        for box in row:
            box.x -= x / 2
    for sweep in range(2 * _SWEEPS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wanted = []
            for box in row:
                near = neighbours[id(box)][0] + neighbours[id(box)][1]
                wanted.append(sum(other.x for other in near) / len(near) if near else box.x)
            for box, x in zip(row, _separated(row, wanted, gap), strict=True):
                box.x = x


def _separated(row: list[Box], wanted: list[float], gap: float) -> list[float]:
    """The places nearest to the wanted ones (least squares) that keep the row's order and gaps.

    Less the room that the boxes to the left need, this is isotonic regression, solved by pooling neighbours.
    """
    offsets = [0.0]
    for left, right in itertools.pairwise(row):
        offsets.append(offsets[-1] + left.width / 2 + gap + right.width / 2)
    pools: list[tuple[float, int]] = []
    for want, offset in zip(wanted, offsets, strict=True):
        mean, count = want - offset, 1
        while pools and pools[-1][0] > mean:
            other, size = pools.pop()
            mean, count = (mean * count + other * size) / (count + size), count + size
        pools.append((mean, count))
    means = [mean for mean, count in pools for _ in range(count)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]
