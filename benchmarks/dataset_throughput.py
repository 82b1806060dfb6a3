"""Measures how many samples per second the data path gives, beside lerobot's and beside the floor.

    python benchmarks/dataset_throughput.py [--lerobot <env>/bin/python] [--cases state,cameras,…]
    python benchmarks/dataset_throughput.py --pusht <folder of the Push-T dataset>    # share of waiting
    python benchmarks/dataset_throughput.py --memory 8                                # GB of frames

The datasets are made for the run, in a temporary folder; `lerobot_loader.py` says how to install lerobot in
an environment of its own. Each case is measured here, there, and here again, so a ratio is one of the same
minutes; of the numbers of workers the best counts on either side. One thread per process. Prints JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch

from trainer.data.dataset import WindowedDataset
from trainer.data.lerobot import LeRobotReader, LeRobotWriter
from trainer.data.loader import BatchLoader
from trainer.data.normalization import Normalizer
from trainer.data.video.decoder import backend, open_decoder
from trainer.data.windows import Window
from trainer.runtime.memory import keep_freed_memory

BATCH = 64
WORKERS = (0, 1, 2)
CASES = ("state", "cameras", "busy", "cached", "large")
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


def rate_of(batches: Callable[[], Any], seconds: float) -> float:
    """Return samples per second of an endless iterator of batches, after its first two."""
    found = iter(batches())
    for _ in range(2):
        next(found)
    samples, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        samples += next(found)
    return round(samples / (time.perf_counter() - began), 1)


def through_loader(dataset: WindowedDataset, workers: int, scale_images: bool = True) -> Callable[[], Any]:
    normalizer = Normalizer(dataset.statistics(["observation.state", "action"]))
    loader = BatchLoader(
        dataset,
        batch_size=BATCH,
        num_workers=workers,
        persistent_workers=workers > 0,
        normalizer=normalizer,
        scale_images=scale_images,
    )
    return lambda: (len(batch["index"]) for epoch in itertools.count() for batch in loader.epoch(epoch))


def random_batches(dataset: WindowedDataset) -> Any:
    rng = np.random.default_rng(0)
    while True:
        yield rng.integers(0, len(dataset), BATCH)


def copy_floor(dataset: WindowedDataset, frames: np.ndarray | None) -> Callable[[], Any]:
    """One bare index per key, frames in memory; no windows clamped, no flags, no floats made."""
    columns = dataset.reader.columns(["observation.state", "action"])
    chunk = np.arange(16)
    last = len(dataset) - 1

    def batches() -> Any:
        for rows in random_batches(dataset):
            columns["observation.state"][rows[:, None]]
            columns["action"][np.minimum(rows[:, None] + chunk, last)]
            if frames is not None:
                frames.take(rows, axis=1)
            yield BATCH

    return batches


def decode_floor(root: Path) -> Callable[[], Any]:
    """The frames of a batch decoded in one call per file, and nothing else."""
    films = sorted(root.glob("videos/**/*.mp4"))
    decoders = [open_decoder(path, 30) for path in films]
    reader = LeRobotReader(root)

    def batches() -> Any:
        for rows in random_batches(open_dataset(root)):
            for decoder in decoders:
                decoder.frames(np.unique(rows).tolist())
            yield BATCH

    assert len(films) == len(reader.camera_features()), "one file per camera"
    return batches


def every_frame(root: Path) -> float:
    """Frames per second of a film that is decoded from beginning to end."""
    [film] = root.glob("videos/**/*.mp4")
    decoder, total = open_decoder(film, 30), len(LeRobotReader(root))
    began = time.perf_counter()
    for first in range(0, total, 100):
        decoder.frames(list(range(first, min(first + 100, total))))
    return round(total / (time.perf_counter() - began), 1)


def lerobot_rates(python: str, root: Path, seconds: float) -> dict[str, Any]:
    rates: dict[int, float] = {}
    version = ""
    for workers in WORKERS:
        found = lerobot_rate(python, root, workers, seconds)
        rates[workers], version = found["samples_per_s"], found["version"]
    return {"version": version, "samples_per_s": rates}


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


def measure(case: str, folder: Path, lerobot: str | None, seconds: float) -> dict[str, Any]:
    root = folder / {"cached": "cameras"}.get(case, case)
    cameras = {"state": {}, "large": {"observation.images.front": LARGE}}.get(
        case, {"observation.images.left": SMALL, "observation.images.right": SMALL}
    )
    if not root.is_dir():
        # "large" is encoded as ffmpeg does when it is told nothing: a keyframe in 250 frames.
        options = {"video_encoder": "libx264", "video_options": {}} if case == "large" else {}
        episodes, frames = {"state": (50, 400), "large": (12, 250)}.get(case, (25, 200))
        write_dataset(root, episodes, frames, cameras, case == "busy", **options)
    dataset = open_dataset(root, folder / "cache" if case == "cached" else None)

    def ours() -> dict[int, float]:
        return {workers: rate_of(through_loader(dataset, workers), seconds) for workers in WORKERS}

    before = ours()
    theirs = lerobot_rates(lerobot, root, seconds) if lerobot else None
    print(f"{case}: {before}, lerobot {theirs}", file=sys.stderr)
    after = ours()
    rates = {workers: round((before[workers] + after[workers]) / 2, 1) for workers in WORKERS}
    films = sum(path.stat().st_size for path in root.rglob("*.mp4")) / (len(dataset) * max(1, len(cameras)))
    result: dict[str, Any] = {
        "frames": len(dataset),
        "cameras": cameras,
        "bytes per frame": round(films),
        "samples_per_s": rates,
    }
    if case == "state":
        floors = {"one copy": rate_of(copy_floor(dataset, None), seconds)}
    elif case == "cached":
        arrays = [np.load(path, mmap_mode="r") for path in sorted((folder / "cache").glob("*.npy"))]
        floors = {"one copy": rate_of(copy_floor(dataset, np.stack(arrays)), seconds)}
        result["uint8, as they go to a GPU"] = rate_of(through_loader(dataset, 0, False), seconds)
    else:
        floors = {"one batched decode": rate_of(decode_floor(root), seconds)}
        if case == "large":
            floors["every frame once, in order"] = every_frame(root)
            result["batches decoded at once"] = dataset.lookahead(BATCH)
    best = max(rates.values())
    result["floor"] = floors
    result["share of the floor, no workers"] = {n: round(rates[0] / floor, 3) for n, floor in floors.items()}
    if theirs:
        result["lerobot"] = theirs
        result["times lerobot, best against best"] = round(best / max(theirs["samples_per_s"].values()), 1)
        result["times lerobot, no workers"] = round(rates[0] / theirs["samples_per_s"][0], 1)
    return result


def waiting(pusht: Path, folder: Path, steps: int = 150) -> dict[str, Any]:
    """Share of a training step spent waiting for data, with small networks, on Push-T."""
    from torch import nn

    def share(windows: list[Window], batch: int, network: nn.Module, key: str) -> dict[str, Any]:
        reader = LeRobotReader(pusht)
        action = Window("action", tuple(range(16)))
        dataset = WindowedDataset(reader, [*windows, action], frame_cache=folder / "pusht")
        stats = dataset.statistics([k for k in (key, "action") if k not in dataset.image_keys])
        loader = BatchLoader(dataset, batch_size=batch, normalizer=Normalizer(stats))
        optimizer = torch.optim.AdamW(network.parameters())
        began = waited = 0.0
        endless = (b for epoch in itertools.count() for b in loader.epoch(epoch))
        for step, found in enumerate(itertools.islice(endless, steps + 10)):
            if step == 10:
                began, waited = time.perf_counter(), loader.wait_seconds
            loss = (network(found[key]) - found["action"].flatten(1)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        passed = time.perf_counter() - began
        return {
            "parameters": sum(p.numel() for p in network.parameters()),
            "batch": batch,
            "ms_per_step": round(1000 * passed / steps, 2),
            "ms waited per step": round(1000 * (loader.wait_seconds - waited) / steps, 3),
            "share of waiting": round((loader.wait_seconds - waited) / passed, 4),
        }

    def perceptron(width: int) -> nn.Module:
        sizes = [4, width, width, width, 32]
        layers = [layer for pair in itertools.pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
        return nn.Sequential(nn.Flatten(), *layers[:-1])

    def convolutions(width: int) -> nn.Module:
        sizes = [3, width, 2 * width, 4 * width, 8 * width]
        layers = [
            layer
            for pair in itertools.pairwise(sizes)
            for layer in (nn.Conv2d(*pair, 3, stride=2, padding=1), nn.ReLU())
        ]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(6 * 6 * 8 * width, 32))

    state, image = "observation.state", "observation.image"
    result = {}
    for name, width, channels in (("tiny", 256, 8), ("small", 1024, 32)):
        result[f"state, {name} network"] = share([Window(state, (-1, 0))], 256, perceptron(width), state)
        result[f"image, cached, {name} network"] = share(
            [Window(image, (0,))], 64, convolutions(channels), image
        )
    return result


def memory(gigabytes: float, folder: Path) -> dict[str, Any]:
    """Read an epoch of a dataset whose decoded frames take so many GB, and say how much memory that took."""
    per_frame = LARGE[0] * LARGE[1] * 3
    frames = int(gigabytes * 1e9 / per_frame)
    began = time.perf_counter()
    write_dataset(
        folder / "set",
        max(1, frames // 250),
        250,
        {"observation.images.front": LARGE},
        video_encoder="libx264",
    )
    written = time.perf_counter()
    dataset = open_dataset(folder / "set", folder / "cache")
    built = time.perf_counter()
    before = peak_memory()
    loader = BatchLoader(dataset, batch_size=BATCH)
    samples = sum(len(batch["index"]) for batch in loader.epoch(0))
    read = time.perf_counter()
    return {
        "GB of frames": round(len(dataset) * per_frame / 1e9, 2),
        "GB of films": round(sum(p.stat().st_size for p in folder.rglob("*.mp4")) / 1e9, 3),
        "seconds": {
            "write": round(written - began, 1),
            "build the cache": round(built - written, 1),
            "read an epoch": round(read - built, 1),
        },
        "samples_per_s": round(samples / (read - built), 1),
        "peak memory in MB": {"after the cache was built": before, "after the epoch": peak_memory()},
        "bytes of one batch in MB": round(BATCH * per_frame * 4 / 1e6),
    }


def peak_memory() -> float:
    """Return the largest resident memory of this process so far, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lerobot", help="Python of an environment where lerobot is installed")
    parser.add_argument("--cases", default=",".join(CASES), help="what to measure, separated by commas")
    parser.add_argument("--pusht", type=Path, help="the Push-T dataset, to measure the share of waiting")
    parser.add_argument("--memory", type=float, help="GB of frames; measures memory and nothing else")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as training does
    result: dict[str, Any] = {
        "batch": BATCH,
        "decoder": backend(),
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load at the beginning": round(os.getloadavg()[0], 2),
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.memory:
            result["memory"] = memory(arguments.memory, folder)
        elif arguments.pusht:
            result["waiting"] = waiting(arguments.pusht, folder)
        else:
            for case in arguments.cases.split(","):
                if case not in CASES:
                    parser.error(f"there is no case '{case}'; there are {', '.join(CASES)}")
                result[case] = measure(case, folder, arguments.lerobot, arguments.seconds)
    result["load at the end"] = round(os.getloadavg()[0], 2)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
