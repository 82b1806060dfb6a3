"""Measures how many samples per second the data path gives, state only, in one process.

    python benchmarks/dataset_throughput.py <dataset folder> [--batch 64] [--horizon 16] [--history 2]

Prints one JSON object: samples/s of the gather alone, of the loader with normalization, of the loader with
two workers, and of the floor: one bare index per key with neither windows nor clamping nor flags.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable

import numpy as np
import torch

from trainer.data.dataset import WindowedDataset
from trainer.data.lerobot import LeRobotReader
from trainer.data.loader import BatchLoader
from trainer.data.normalization import Normalizer
from trainer.data.windows import Window

REPEATS = 5


def best_rate(run: Callable[[], int]) -> float:
    """Return samples per second of the best of several runs; the others were disturbed."""
    rates = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        samples = run()
        rates.append(samples / (time.perf_counter() - began))
    return round(max(rates))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--horizon", type=int, default=16)
    parser.add_argument("--history", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    began = time.perf_counter()
    reader = LeRobotReader(arguments.root)
    observations = reader.numeric_features("observation.")
    history = tuple(range(1 - arguments.history, 1))
    windows = [Window(key, history) for key in observations]
    dataset = WindowedDataset(reader, [*windows, Window("action", tuple(range(arguments.horizon)))])
    statistics = dataset.statistics([*observations, "action"])
    opened = time.perf_counter() - began

    rng = np.random.default_rng(0)
    batches = rng.integers(0, len(dataset), (1000, arguments.batch))

    def gather() -> int:
        for indices in batches:
            dataset.__getitems__(indices)
        return batches.size

    columns = reader.columns([*observations, "action"])
    rows = {
        key: np.minimum(batches[..., None] + np.arange(len(w.offsets)), len(dataset) - 1)
        for key, w in zip(columns, dataset.windows, strict=True)
    }

    def floor() -> int:
        for i in range(len(batches)):
            for key, column in columns.items():
                column[rows[key][i]]
        return batches.size

    def through(loader: BatchLoader) -> Callable[[], int]:
        epochs = iter(range(10**6))
        return lambda: sum(len(batch["index"]) for batch in loader.epoch(next(epochs)))

    options = {"batch_size": arguments.batch, "normalizer": Normalizer(statistics)}
    workers = BatchLoader(dataset, num_workers=2, persistent_workers=True, **options)
    result = {
        "dataset": reader.root.name,
        "samples": len(dataset),
        "batch": arguments.batch,
        "windows": {window.key: list(window.offsets) for window in dataset.windows},
        "seconds_to_open": round(opened, 3),
        "samples_per_s": {
            "gather": best_rate(gather),
            "loader": best_rate(through(BatchLoader(dataset, **options))),
            "loader, 2 workers": best_rate(through(workers)),
            "floor": best_rate(floor),
        },
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
