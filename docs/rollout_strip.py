"""Draws the pictures of the README: frames of rollout films side by side, time running to the right.

`python docs/rollout_strip.py OUT.png FILM.mp4 …` takes the films that `trainer evaluate` wrote, one row each.
"""

from __future__ import annotations

import sys

import av
import numpy as np
from PIL import Image

COLUMNS, SIZE, GAP = 8, 144, 4


def row(film: str) -> Image.Image:
    """Return the first, the last and evenly spaced frames between them."""
    with av.open(film) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    chosen = [frames[i] for i in np.linspace(0, len(frames) - 1, COLUMNS).round().astype(int)]
    strip = Image.new("RGB", (COLUMNS * SIZE + (COLUMNS - 1) * GAP, SIZE), "white")
    for column, frame in enumerate(chosen):
        picture = Image.fromarray(frame).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        strip.paste(picture, (column * (SIZE + GAP), 0))
    return strip


def main(out: str, films: list[str]) -> None:
    """Stack the rows of all films into one picture."""
    rows = [row(film) for film in films]
    sheet = Image.new("RGB", (rows[0].width, len(rows) * (SIZE + GAP) - GAP), "white")
    for index, strip in enumerate(rows):
        sheet.paste(strip, (0, index * (SIZE + GAP)))
    sheet.quantize(128).save(out, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
