"""Draws the score of a run's checkpoints over training: `python docs/score_curve.py OUT.svg RUN …`.

It reads what `trainer evaluate` wrote to `<run>/evaluations/*/results.json`; one line per run, with the 95 %
intervals of the mean score.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 360, 56, 16, 16, 44
COLOURS = ("#0b6bcb", "#c4511c", "#2a7d4f", "#7b4fb0")


def points(run: Path) -> list[tuple[int, float, float, float]]:
    """Return epoch, mean score and its interval for every evaluated checkpoint."""
    found = []
    for path in run.glob("evaluations/epoch_*/results.json"):
        result = json.loads(path.read_text(encoding="utf-8"))
        epoch = int(re.match(r"epoch_(\d+)", path.parent.name).group(1))  # type: ignore[union-attr]
        found.append((epoch, result["mean_score"], *result["score_interval"]))
    return sorted(found)


def draw(runs: list[Path]) -> str:
    """Return the SVG."""
    series = [points(run) for run in runs]
    last = max(epoch for line in series for epoch, *_ in line)
    low = min(bottom for line in series for *_, bottom, _ in line) // 0.05 * 0.05

    def x(epoch: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * epoch / last

    def y(score: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - score) / (1 - low)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" ',
        f'font-size="12"><rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    tick = low
    while tick <= 1.0001:
        out.append(
            f'<path d="M{LEFT} {y(tick):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>'
            f'<text x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.2f}</text>'
        )
        tick += 0.05
    for epoch in sorted({e for line in series for e, *_ in line}):
        out.append(f'<text x="{x(epoch):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{epoch}</text>')
    out.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 8}" text-anchor="middle">epoch</text>')
    out.append(
        f'<text x="14" y="{HEIGHT / 2}" transform="rotate(-90 14 {HEIGHT / 2})" '
        'text-anchor="middle">mean score, 500 starts</text>'
    )
    for number, (run, line) in enumerate(zip(runs, series, strict=True)):
        colour, shift = COLOURS[number % len(COLOURS)], 3 * (number - (len(runs) - 1) / 2)
        path = " ".join(f"{x(e) + shift:.1f},{y(s):.1f}" for e, s, *_ in line)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for epoch, score, bottom, top in line:
            at = x(epoch) + shift
            out.append(
                f'<path d="M{at:.1f} {y(bottom):.1f}V{y(top):.1f}" stroke="{colour}" opacity=".5"/>'
                f'<circle cx="{at:.1f}" cy="{y(score):.1f}" r="3.5" fill="{colour}"/>'
            )
        out.append(
            f'<text x="{WIDTH - RIGHT - 150}" y="{HEIGHT - BOTTOM - 14 - 18 * number}" fill="{colour}">'
            f"{run.name}</text>"
        )
    return "\n".join([*out, "</svg>", ""])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(draw([Path(a) for a in sys.argv[2:]]), encoding="utf-8")
