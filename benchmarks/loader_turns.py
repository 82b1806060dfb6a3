"""The data path and lerobot's in turns of a second within one process: a ratio that other work hardly moves.

    PYTHONPATH=.:policy_constructor <env>/bin/python benchmarks/loader_turns.py <folder> [--pusht <folder>]

Run it with the Python of an environment where lerobot is installed (`lerobot_loader.py` says how)
beside click, pydantic and h5py. One thread on either side, samples per second of processor time;
nothing is made ahead, for it would be made in the other's turn, and each epoch begins with an empty memory.
Datasets are written to the folder where they are missing. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from dataset_throughput import (
    BATCH,
    CASES,
    copy_floor,
    decode_floor,
    endless,
    open_dataset,
    write_case,
)
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from trainer.data.dataset import WindowedDataset
from trainer.runtime.memory import keep_freed_memory


def lerobot_batches(dataset: WindowedDataset, root: Path) -> Iterator[int]:
    """Yield the sizes of batches of the same windows, without end."""
    deltas = {w.key: [offset / dataset.reader.fps for offset in w.offsets] for w in dataset.windows}
    theirs = LeRobotDataset("local/benchmark", root=root, delta_timestamps=deltas)
    while True:
        for batch in torch.utils.data.DataLoader(theirs, batch_size=BATCH, shuffle=True):
            yield len(batch["index"])


def turn(batches: Iterator[int], seconds: float) -> float:
    """Return samples per second of processor time."""
    samples, began = 0, time.process_time()
    while time.process_time() - began < seconds:
        samples += next(batches)
    return samples / (time.process_time() - began)


def measure(case: str, root: Path, cache: Path, rounds: int) -> dict[str, Any]:
    """Return medians over the rounds, and the range of the ratio."""
    dataset = open_dataset(root, cache if case == "cached" else None)
    dataset.concurrent_reads = False
    floor = copy_floor(dataset, None) if case == "state" else decode_floor(root)
    sides = {
        "here": endless(dataset, 0, forgetful=True),
        "lerobot": lerobot_batches(dataset, root),
        "floor": floor,
    }
    seconds = 5.0 if case.startswith("large") else 1.0
    for batches in sides.values():
        turn(batches, 0.2)
    found = [{name: turn(batches, seconds) for name, batches in sides.items()} for _ in range(rounds)]
    ratios = [one["here"] / one["lerobot"] for one in found]
    medians = {name: statistics.median(one[name] for one in found) for name in sides}
    return {
        **{name: round(value, 1) for name, value in medians.items()},
        "times lerobot": round(statistics.median(ratios), 2),
        "from": round(min(ratios), 2),
        "to": round(max(ratios), 2),
        "share of the floor": round(medians["here"] / medians["floor"], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the datasets are, or go")
    parser.add_argument("--pusht", type=Path, help="the Push-T dataset, for the case of that name")
    parser.add_argument("--cases", help="what to measure, separated by commas; all by default")
    parser.add_argument("--rounds", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    cases = arguments.cases.split(",") if arguments.cases else [c for c in CASES if c != "pusht"]
    result: dict[str, Any] = {}
    for case in cases:
        root = arguments.folder / {"cached": "cameras"}.get(case, case)
        if case == "pusht":
            root = arguments.pusht
        elif not root.is_dir():
            write_case(case, root)
        result[case] = measure(case, root, arguments.folder / "cache", arguments.rounds)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
