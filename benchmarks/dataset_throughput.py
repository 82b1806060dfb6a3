"""Measures how many samples per second the data path gives, beside lerobot's and beside the floor.

    python benchmarks/dataset_throughput.py [--lerobot <env>/bin/python] [--pusht <folder>] [--cases state,…]

The datasets are made for the run, in a temporary folder, but for `pusht`, the demonstrations that lerobot
itself wrote; `lerobot_loader.py` says how to install lerobot in an environment of its own. Each case is
measured here, there, and here again, so a ratio is one of the same minutes; of the numbers of workers the
best counts on either side. Both sides have all cores: without workers torch's threads, with workers the
processes. Where frames are decoded on the fly, whole epochs are measured, each of which begins with an empty
`frame_memory`: no frame is there that was decoded in another epoch. What epochs find that follow one another
stands beside it. So do samples per second of processor time without workers, which other work on the machine
moves little. `data_wait.py` measures what of this a training step feels, `large_dataset.py` its memory.
Prints JSON.
"""

from __future__ import annotations

import trainer  # noqa: F401  (before torch: it says how threads wait, as in training)

# isort: split
import argparse
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch

from trainer.config.schemas import DataConfig
from trainer.data.batch_path import BatchPath
from trainer.data.dataset import WindowedDataset
from trainer.data.lerobot import LeRobotReader, LeRobotWriter
from trainer.data.loader import BatchLoader
from trainer.data.normalization import Normalizer
from trainer.data.video.decoder import backend, open_decoder
from trainer.data.video.header import read_header
from trainer.data.windows import Window
from trainer.runtime.memory import keep_freed_memory

BATCH = 64
WORKERS = (0, 1, 2)
FRAME_MEMORY = DataConfig.model_fields["frame_memory"].default * 2**20
IN_FLIGHT = 4
"""Batches that may be ready or being made when an epoch's second one has come; they are not counted."""
CASES = ("state", "metaworld", "pusht", "cameras", "busy", "cached", "large", "large busy")
SMALL, LARGE = (96, 96), (480, 640)


class Film:
    """What a camera sees, each frame made when it is asked for.

    Args:
        frames: how many.
        size: height and width.
        seed: of the scene.
        busy: blocks of noise that all move, about the worst that an encoder can meet; otherwise the camera
            stands still before a smooth scene in which one thing moves.
    """

    def __init__(self, frames: int, size: tuple[int, int], seed: int, busy: bool) -> None:
        rng = np.random.default_rng(seed)
        coarse = PIL.Image.fromarray(rng.integers(0, 256, (size[0] // 16, size[1] // 16, 3), np.uint8))
        how = PIL.Image.Resampling.NEAREST if busy else PIL.Image.Resampling.BICUBIC
        self._scene = np.asarray(coarse.resize(size[::-1], how))
        self._frames, self._size, self._busy = frames, size, busy

    def __len__(self) -> int:
        return self._frames

    def __getitem__(self, index: int) -> np.ndarray:
        if self._busy:
            return np.roll(self._scene, (2 * index, 3 * index), axis=(0, 1))
        frame = self._scene.copy()
        height, width = self._size
        y, x = np.ogrid[:height, :width]
        middle = (height / 2 + height / 3 * np.sin(index / 20), width / 2 + width / 3 * np.cos(index / 27))
        frame[(y - middle[0]) ** 2 + (x - middle[1]) ** 2 < (height / 8) ** 2] = (200, 40, 60)
        return frame


def write_dataset(
    root: Path,
    episodes: int,
    frames: int,
    cameras: Mapping[str, tuple[int, int]],
    busy: bool = False,
    **options: Any,
) -> Path:
    """Write a dataset with 14 numbers of state and of action, and cameras of given sizes."""
    numbers = {"dtype": "float32", "shape": [14], "names": None}
    films = {name: {"dtype": "video", "shape": [*size, 3]} for name, size in cameras.items()}
    features = {"observation.state": numbers, "action": numbers, **films}
    rng = np.random.default_rng(0)
    with LeRobotWriter(root, fps=30, features=features, **options) as writer:
        for episode in range(episodes):
            columns: dict[str, Any] = {
                name: rng.normal(size=(frames, 14)).astype(np.float32)
                for name in ("observation.state", "action")
            }
            for place, (name, size) in enumerate(cameras.items()):
                columns[name] = Film(frames, size, 100 * place + episode, busy)
            writer.add_episode(columns, "move")
    return root


def open_dataset(root: Path, frame_cache: Path | None = None) -> WindowedDataset:
    reader = LeRobotReader(root)
    windows = [Window(key, (0,)) for key in ("observation.state", *reader.camera_features())]
    return WindowedDataset(reader, [*windows, Window("action", tuple(range(16)))], frame_cache=frame_cache)


def rates_of(batches: Iterator[int], seconds: float) -> tuple[float, float]:
    """Return samples per second, and per CPU second, of endless batches after the first two."""
    for _ in range(2):
        next(batches)
    samples, began, used = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds:
        samples += next(batches)
    passed, computed = time.perf_counter() - began, time.process_time() - used
    return round(samples / passed, 1), round(samples / computed, 1)


def rate_of(batches: Iterator[int], seconds: float) -> float:
    """Return samples per second."""
    return rates_of(batches, seconds)[0]


def loader_of(dataset: WindowedDataset, workers: int) -> BatchLoader:
    normalizer = Normalizer(dataset.statistics(["observation.state", "action"]))
    return BatchLoader(
        dataset,
        batch_size=BATCH,
        num_workers=workers,
        path=BatchPath(normalizer, cameras=dataset.image_keys),
        frame_memory=FRAME_MEMORY,
    )


def endless(dataset: WindowedDataset, workers: int, forgetful: bool = False) -> Iterator[int]:
    """Yield the sizes of batches of one epoch after the other, all frames forgotten in between or not."""
    loader = loader_of(dataset, workers)
    for epoch in itertools.count():
        if forgetful:
            dataset._memories.forget()
        for batch in loader.epoch(epoch):
            yield len(batch["index"])


def rates_of_epochs(dataset: WindowedDataset, workers: int, seconds: float) -> tuple[float, float]:
    """Return samples per second, and per CPU second, of epochs that find no frame in memory.

    Of each the first two batches are left out, as in lerobot's measurement, and those in flight behind them.
    """
    loader = loader_of(dataset, workers)
    samples, passed, used = 0, 0.0, 0.0
    for epoch in itertools.count():
        dataset._memories.forget()  # worker processes are new ones in every epoch, with nothing in theirs
        batches = loader.epoch(epoch)
        for _ in range(2):
            next(batches)
        began, used_before = time.perf_counter(), time.process_time()
        samples += sum(len(batch["index"]) for batch in batches) - IN_FLIGHT * BATCH
        passed += time.perf_counter() - began
        used += time.process_time() - used_before
        if passed > seconds:
            return round(samples / passed, 1), round(samples / used, 1)
    raise AssertionError


def random_batches(dataset: WindowedDataset) -> Any:
    rng = np.random.default_rng(0)
    while True:
        yield rng.integers(0, len(dataset), BATCH)


def copy_floor(dataset: WindowedDataset, frames: np.ndarray | None) -> Iterator[int]:
    """One bare index per key, frames in memory; no windows clamped, no flags, no floats made."""
    columns = dataset.reader.columns(["observation.state", "action"])
    chunk = np.arange(16)
    last = len(dataset) - 1
    for rows in random_batches(dataset):
        columns["observation.state"][rows[:, None]]
        columns["action"][np.minimum(rows[:, None] + chunk, last)]
        if frames is not None:
            frames.take(rows, axis=1)
        yield BATCH


def decode_floor(root: Path) -> Iterator[int]:
    """The frames of a batch decoded in one call per file and in one thread, and nothing else."""
    films = sorted(root.glob("videos/**/*.mp4"))
    dataset = open_dataset(root)
    assert len(films) == len(dataset.image_keys), "one file per camera"
    decoders = [open_decoder(path, dataset.reader.fps) for path in films]
    for rows in random_batches(dataset):
        for decoder in decoders:
            decoder.frames(np.unique(rows).tolist())
        yield BATCH


def every_frame(root: Path) -> float:
    """Samples per second if each frame is decoded once, from the beginning of each film to its end."""
    total, reader = 0, LeRobotReader(root)
    began = time.perf_counter()
    for film in sorted(root.glob("videos/**/*.mp4")):
        decoder, count = open_decoder(film, reader.fps), read_header(film).frames
        total += count
        for first in range(0, count, 100):
            decoder.frames(list(range(first, min(first + 100, count))))
    return round(total / len(reader.camera_features()) / (time.perf_counter() - began), 1)


def lerobot_rates(python: str, root: Path, seconds: float) -> dict[str, Any]:
    found = {workers: lerobot_rate(python, root, workers, seconds) for workers in WORKERS}
    return {
        "version": found[0]["version"],
        "samples_per_s": {workers: one["samples_per_s"] for workers, one in found.items()},
        "samples per CPU second, no workers": found[0]["samples_per_cpu_s"],
    }


def lerobot_rate(python: str, root: Path, workers: int, seconds: float) -> dict[str, Any]:
    asked = {
        "root": str(root),
        "windows": {window.key: window.offsets for window in open_dataset(root).windows},
        "batch": BATCH,
        "workers": workers,
        "seconds": seconds,
    }
    command = [python, str(Path(__file__).with_name("lerobot_loader.py")), json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"lerobot failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def measure(
    case: str, folder: Path, pusht: Path | None, lerobot: str | None, seconds: float
) -> dict[str, Any]:
    if case == "pusht":
        assert pusht is not None
        root = pusht
    else:
        root = folder / {"cached": "cameras"}.get(case, case)
    if not root.is_dir():
        write_case(case, root)
    dataset = open_dataset(root, folder / "cache" if case == "cached" else None)
    on_the_fly = case not in ("state", "cached")
    used: list[float] = []

    def ours() -> dict[int, float]:
        rates = {}
        for workers in WORKERS:
            if on_the_fly:
                rates[workers], per_cpu = rates_of_epochs(dataset, workers, seconds)
            else:
                rates[workers], per_cpu = rates_of(endless(dataset, workers), seconds)
            if not workers:
                used.append(per_cpu)
        return rates

    if on_the_fly:
        rate_of(endless(dataset, 0), 0.1)  # memory that a virtual machine never had is slow to come
    before = ours()
    theirs = lerobot_rates(lerobot, root, seconds) if lerobot else None
    print(f"{case}: {before}, lerobot {theirs}", file=sys.stderr)
    after = ours()
    rates = {workers: round((before[workers] + after[workers]) / 2, 1) for workers in WORKERS}
    cameras = dataset.image_keys
    films = sum(path.stat().st_size for path in root.rglob("*.mp4")) / (len(dataset) * max(1, len(cameras)))
    result: dict[str, Any] = {
        "frames": len(dataset),
        "cameras": {name: dataset.reader.features[name].frame_shape[1:] for name in cameras},
        "bytes per frame": round(films),
        "samples_per_s": rates,
        "samples per CPU second, no workers": round(sum(used) / len(used), 1),
    }
    if on_the_fly:
        following = endless(dataset, 0)
        for _ in range(len(dataset) // BATCH):  # an epoch
            next(following)
        result["samples_per_s, epochs after the first, no workers"] = rate_of(following, seconds)
    if case == "state":
        floors = {"one copy": rate_of(copy_floor(dataset, None), seconds)}
    elif case == "cached":
        arrays = [np.load(path, mmap_mode="r") for path in sorted((folder / "cache").glob("*.npy"))]
        floors = {"one copy": rate_of(copy_floor(dataset, np.stack(arrays)), seconds)}
    else:
        floors = {
            "one batched decode, one thread": rate_of(decode_floor(root), seconds),
            "every frame once, in order, one thread": every_frame(root),
        }
    result["floor"] = floors
    result["share of the floor"] = {n: round(max(rates.values()) / floor, 3) for n, floor in floors.items()}
    if theirs:
        best, other = max(rates.values()), max(theirs["samples_per_s"].values())
        per_cpu = theirs["samples per CPU second, no workers"]
        result["lerobot"] = theirs
        result["times lerobot, best against best"] = round(best / other, 1)
        result["times lerobot, per CPU second without workers"] = round(sum(used) / len(used) / per_cpu, 1)
    return result


def write_case(case: str, root: Path) -> None:
    small = {"observation.images.left": SMALL, "observation.images.right": SMALL}
    if case == "metaworld":
        from metaworld_films import write_metaworld  # needs Meta-World

        write_metaworld(root, SMALL[0], episodes=20)
    elif case.startswith("large"):
        # Encoded as ffmpeg does when it is told nothing: a keyframe in 250 frames.
        options = {"video_encoder": "libx264", "video_options": {}}
        write_dataset(root, 12, 250, {"observation.images.front": LARGE}, "busy" in case, **options)
    elif case == "state":
        write_dataset(root, 50, 400, {})
    else:
        write_dataset(root, 25, 200, small, case == "busy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lerobot", help="Python of an environment where lerobot is installed")
    parser.add_argument("--cases", help="what to measure, separated by commas; all by default")
    parser.add_argument("--pusht", type=Path, help="the Push-T dataset, for the case of that name")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    arguments = parser.parse_args()
    cases = (
        arguments.cases.split(",")
        if arguments.cases
        else [c for c in CASES if c != "pusht" or arguments.pusht]
    )
    for case in cases:
        if case not in CASES or (case == "pusht" and not arguments.pusht):
            parser.error(f"there is no case '{case}'; there are {', '.join(CASES)}, the third with --pusht")
    keep_freed_memory()  # as training does
    result: dict[str, Any] = {
        "batch": BATCH,
        "decoder": backend(),
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load at the beginning": round(os.getloadavg()[0], 2),
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
    }
    with tempfile.TemporaryDirectory() as name:
        for case in cases:
            result[case] = measure(case, Path(name), arguments.pusht, arguments.lerobot, arguments.seconds)
    result["load at the end"] = round(os.getloadavg()[0], 2)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
