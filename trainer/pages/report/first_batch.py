"""The first training batch: what the policy sees, as pictures and as a table."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from trainer.pages.parts.charts import (
    COLOURS,
    Chart,
    LegendEntry,
    lines_chart,
    shared_axis,
)
from trainer.pages.parts.pictures import jpeg_uri
from trainer.pages.report.dataset_info import Feature

_SAMPLES = 4
_MAX_IMAGE_SIDE = 160
_PAD_SUFFIX = "_is_pad"


@dataclass(frozen=True)
class ArrayFacts:
    """One row of the table; the numbers are over finite values, `None` where there is none."""

    key: str
    shape: tuple[int, ...]
    dtype: str
    low: float | None
    high: float | None
    mean: float | None
    broken: int


@dataclass(frozen=True)
class Picture:
    """A camera image of one sample as a data URI."""

    caption: str
    uri: str


@dataclass(frozen=True)
class Plot:
    """All samples of one key: charts with one legend, or pictures where it holds images."""

    key: str
    explanation: str
    legend: tuple[LegendEntry, ...] = ()
    charts: tuple[Chart, ...] = ()
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True)
class FirstBatch:
    """Plots and table of `first_batch.npz`; `problems` are sentences about what could not be read."""

    plots: tuple[Plot, ...]
    table: tuple[ArrayFacts, ...]
    problems: tuple[str, ...]


def read_first_batch(path: Path, features: tuple[Feature, ...]) -> FirstBatch | None:
    """Read the saved samples; `None` where there is no file. Never unpickles anything."""
    if not path.exists():
        return None
    arrays: dict[str, np.ndarray] = {}
    problems: list[str] = []
    try:
        with np.load(path, allow_pickle=False) as archive:
            for key in archive.files:
                try:
                    arrays[key] = archive[key]
                except ValueError:
                    problems.append(f"{key} holds no plain numbers and is left out.")
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        problems.append(f"first_batch.npz cannot be read ({error}).")
    names = {feature.name: feature.names for feature in features}
    plots: list[Plot] = []
    for key in sorted(arrays, key=_reading_order):
        plot = _plot(key, arrays, names.get(key, ()), [known.key for known in plots])
        if plot is not None:
            plots.append(plot)
    return FirstBatch(tuple(plots), tuple(_facts(key, arrays[key]) for key in arrays), tuple(problems))


def _reading_order(key: str) -> tuple[int, str]:
    """Actions first, then the observation, then the rest."""
    return (0 if key == "action" else 1 if key.startswith("observation") else 2, key)


def _plot(
    key: str, arrays: dict[str, np.ndarray], names: tuple[str, ...], seen: Sequence[str]
) -> Plot | None:
    """Draw one key, unless it repeats one of those `seen` before, or has nothing to draw."""
    array = arrays[key]
    if key.endswith(_PAD_SUFFIX) or not np.issubdtype(array.dtype, np.number) or not array.size:
        return None
    if array.ndim >= 4 and 3 in (array.shape[-3], array.shape[-1]):
        return _image_plot(key, array)
    if array.ndim == 2:
        array = array[:, None, :]
    if array.ndim != 3:
        return None
    twin = next((other for other in seen if _equal(arrays[other], arrays[key])), None)
    if twin is not None:
        return Plot(key, f"The same values as {twin}.")
    axis = shared_axis([array[:_SAMPLES].astype(np.float64)])
    samples = range(min(_SAMPLES, len(array)))
    if array.shape[1] >= 4:  # long enough to be drawn over time, such as an action chunk
        pads = arrays.get(key + _PAD_SUFFIX)
        charts = [
            lines_chart(
                f"sample {sample}",
                "normalized",
                "step of the window",
                _dimensions(array[sample], names),
                axis,
                shaded_from=_first_pad(pads, sample),
                faint_after=COLOURS,
            )
            for sample in samples
        ]
        shaded = " Shaded steps are padding beyond the episode." if pads is not None else ""
        text = f"{array.shape[2]} dimensions over {array.shape[1]} steps.{shaded}"
        if array.shape[2] > COLOURS:
            text += f" The first {COLOURS} dimensions have colours, the others are grey."
    else:
        newest = array.shape[1] - 1
        charts = [
            lines_chart(
                f"sample {sample}",
                "normalized",
                "dimension",
                [(_history_label(back), array[sample, newest - back]) for back in range(newest + 1)],
                axis,
                connected=False,
            )
            for sample in samples
        ]
        text = f"{array.shape[2]} dimensions, {array.shape[1]} step(s) of history, one colour for each step."
    legend = charts[0].legend if charts and len(charts[0].legend) > 1 else ()
    return Plot(key, text, legend, charts=tuple(replace(chart, legend=()) for chart in charts))


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and np.array_equal(one, other, equal_nan=True)


def _history_label(back: int) -> str:
    return "newest step" if back == 0 else f"{back} before"


def _dimensions(sample: np.ndarray, names: tuple[str, ...]) -> list[tuple[str, np.ndarray]]:
    """(T, D) -> D lines with the dataset's names where it has them."""
    fitting = names if len(names) == sample.shape[1] else tuple(f"dim {i}" for i in range(sample.shape[1]))
    return [(name, sample[:, dimension]) for dimension, name in enumerate(fitting)]


def _first_pad(pads: np.ndarray | None, sample: int) -> float | None:
    """Where the padding at the end of a chunk begins, half a step before its first padded value."""
    if pads is None or pads.ndim < 2 or sample >= len(pads):
        return None
    padded = pads[sample].reshape(-1).astype(bool)
    if not padded.any() or not padded[-1]:
        return None
    real = np.flatnonzero(~padded)
    return float(real[-1]) + 0.5 if len(real) else 0.0


def _image_plot(key: str, array: np.ndarray) -> Plot:
    frames = array.reshape(len(array), -1, *array.shape[-3:])[:, -1].astype(np.float32)
    if frames.shape[-1] != 3:
        frames = np.moveaxis(frames, 1, -1)
    frames = np.nan_to_num(frames, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(frames.min()), float(frames.max())
    pixels = ((frames - low) / ((high - low) or 1.0) * 255).astype(np.uint8)
    pictures = []
    for sample, frame in enumerate(pixels):
        picture = Image.fromarray(frame)
        picture.thumbnail((_MAX_IMAGE_SIDE, _MAX_IMAGE_SIDE))
        pictures.append(Picture(f"sample {sample}", jpeg_uri(picture, quality=85)))
    text = "Newest frame of each sample, its normalized values stretched to black and white."
    return Plot(key, text, pictures=tuple(pictures))


def _facts(key: str, array: np.ndarray) -> ArrayFacts:
    numeric = np.issubdtype(array.dtype, np.number) or array.dtype == np.bool_
    values = array.astype(np.float64).reshape(-1) if numeric else np.empty(0)
    finite = values[np.isfinite(values)]
    return ArrayFacts(
        key=key,
        shape=array.shape,
        dtype=str(array.dtype),
        low=float(finite.min()) if len(finite) else None,
        high=float(finite.max()) if len(finite) else None,
        mean=float(finite.mean()) if len(finite) else None,
        broken=len(values) - len(finite),
    )
