"""How many samples per second lerobot's own dataset gives through torch's DataLoader.

Run by `dataset_throughput.py` with the Python of an environment where lerobot is installed:

    python -m venv <env> && <env>/bin/pip install torch lerobot "torchcodec<0.14"

Where lerobot 0.4.4 must live with a newer torch than it asks for: `pip install --no-deps lerobot==0.4.4
diffusers accelerate torchvision`, then `datasets==4.1.1 jsonlines "av<16" "draccus==0.10.0"
"huggingface-hub<1" einops gymnasium deepdiff imageio pyserial termcolor psutil regex safetensors`. A
torchvision without operators for that torch imports once `_meta_registrations` is taken out of its
`__init__.py` and `torchvision::nms` is declared; the dataset uses none.

Takes one JSON argument: root, windows (feature → offsets in frames), batch, workers, seconds. One number of
workers a process: films that are open when lerobot's loader forks its workers are read wrongly there.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import sys
import time
from typing import Any

import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset


def rates(dataset: LeRobotDataset, batch: int, workers: int, seconds: float) -> tuple[float, float]:
    """Return samples per second, and per second of this process, after the first two batches.

    Epochs follow each other and workers stay, so a dataset of any size is measured for the same time.
    """
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    for _ in range(2):
        next(batches)
    samples, began, used = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds:
        samples += len(next(batches)["index"])
    return samples / (time.perf_counter() - began), samples / (time.process_time() - used)


def main() -> None:
    asked: dict[str, Any] = json.loads(sys.argv[1])
    plain = LeRobotDataset("local/benchmark", root=asked["root"])
    deltas = {key: [offset / plain.fps for offset in offsets] for key, offsets in asked["windows"].items()}
    dataset = LeRobotDataset("local/benchmark", root=asked["root"], delta_timestamps=deltas)
    per_s, per_cpu_s = rates(dataset, asked["batch"], asked["workers"], asked["seconds"])
    version = importlib.metadata.version("lerobot")
    found = {"version": version, "samples_per_s": round(per_s, 1), "samples_per_cpu_s": round(per_cpu_s, 1)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
