"""Draws the success of what online runs collected, over expert labels and over minutes, one colour a task.

`python docs/online_curves.py OUT.svg RESULTS …` reads what `benchmarks/online_results.py` prints: of every
line that is JSON its `curve`, a point of which is update, seconds, expert labels and success.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from score_curve import BOTTOM, COLOURS, HEIGHT, LEFT, RIGHT, TOP, WIDTH

PANEL = (WIDTH - LEFT - RIGHT - 24) / 2
Point = tuple[float, float]


def runs_of(files: list[Path]) -> list[dict[str, Any]]:
    """Return the online runs that results speak of."""
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    runs = [json.loads(line) for line in lines if line.startswith("{")]
    return [run for run in runs if run["way"] == "online"]


def panel(left: float, label: str, lines: list[tuple[str, list[Point]]], tick: float) -> list[str]:
    """Return one plot of success over something, with a tick at every multiple of `tick`."""
    most = max(x for _, line in lines for x, _ in line)

    def at(point: Point) -> str:
        x, y = left + PANEL * point[0] / most, TOP + (HEIGHT - TOP - BOTTOM) * (1 - point[1])
        return f"{x:.1f},{y:.1f}"

    out = []
    for share in (0.0, 0.25, 0.5, 0.75, 0.9, 1.0):
        x, _, y = at((0, share)).partition(",")
        out.append(f'<path d="M{x} {y}h{PANEL:.1f}" stroke="#ddd"/>')
        if left == LEFT:
            out.append(f'<text x="{left - 8}" y="{float(y) + 4:.1f}" text-anchor="end">{share:.0%}</text>')
    for number in range(int(most / tick) + 1):
        x = at((number * tick, 0)).partition(",")[0]
        text = f'x="{x}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle"'
        out.append(f"<text {text}>{number * tick:,g}</text>")
    middle = f'x="{left + PANEL / 2:.1f}" y="{HEIGHT - 8}" text-anchor="middle"'
    out.append(f"<text {middle}>{label}</text>")
    for colour, line in lines:
        path = " ".join(at(point) for point in line)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    return out


def draw(runs: list[dict[str, Any]]) -> str:
    """Return the SVG."""
    tasks = list(dict.fromkeys(run["task"] for run in runs))
    colours = dict(zip(tasks, COLOURS, strict=False))

    def lines(x: Callable[[list[float]], float]) -> list[tuple[str, list[Point]]]:
        return [
            (colours[run["task"]], [(x(point), point[3]) for point in run["curve"] if point[3] is not None])
            for run in runs
        ]

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" ',
        f'font-size="12"><rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        *panel(LEFT, "expert labels", lines(lambda point: point[2]), 2500),
        *panel(LEFT + PANEL + 24, "minutes", lines(lambda point: point[1] / 60), 2),
    ]
    for number, (task, colour) in enumerate(colours.items()):
        place = f'x="{WIDTH - RIGHT - 8}" y="{HEIGHT - BOTTOM - 14 - 18 * number}" text-anchor="end"'
        out.append(f'<text {place} fill="{colour}">{task}</text>')
    return "\n".join([*out, "</svg>", ""])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(draw(runs_of([Path(a) for a in sys.argv[2:]])), encoding="utf-8")
