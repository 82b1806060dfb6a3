"""How much faster two ranks train than one, with one thread each.

`python benchmarks/rank_scaling.py` trains the same compute-bound policy by turns with one process, with two
ranks under torchrun (gloo) that share the gradients, and with two processes that know nothing of each other:
what the machine gives at best, since two busy cores may be slower than one. The batch per rank is the same.
Samples per second are those that the framework writes into metrics.jsonl, without the first window. Prints
JSON: medians, samples per second of two ranks over twice those of one, and over those of the two processes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from state_experiment import Size, write_experiment

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = str(ROOT / "trainer/offline_trainer.py")
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


def start(path: Path, run: Path, ranks: int) -> subprocess.Popen[bytes]:
    """Start a training."""
    launcher = TORCHRUN if ranks == 2 else []
    command = [
        sys.executable,
        *launcher,
        SCRIPT,
        "--train_config",
        str(path),
        "--set",
        f"train.save_dir={run}",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def rate(process: subprocess.Popen[bytes], run: Path) -> float:
    """Return the median samples per second of a training, when it has ended."""
    said = process.communicate()[1].decode()
    if process.returncode != 0:
        raise SystemExit(f"a training failed:\n{said}")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    windows = [line["samples_per_s"] for line in lines if "samples_per_s" in line]
    return statistics.median(windows[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--batch", type=int, default=512, help="samples per rank")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    import torch

    found: dict[str, list[float]] = {"one": [], "two_ranks": [], "two_processes": []}
    loads = []
    with tempfile.TemporaryDirectory(prefix="rank_scaling.") as name:
        folder = Path(name)
        size = Size(arguments.width, arguments.blocks, condition=256, batch=arguments.batch, episodes=60)
        changes = {"train": {"epoch": None, "max_steps": arguments.steps, "save_every": 10**6}}
        path = write_experiment(folder, size, changes)
        for turn in range(arguments.rounds):
            loads.append(round(os.getloadavg()[0], 2))
            runs = {key: [folder / f"{key}_{turn}_{i}" for i in range(2)] for key in found}
            found["one"].append(rate(start(path, runs["one"][0], 1), runs["one"][0]))
            found["two_ranks"].append(rate(start(path, runs["two_ranks"][0], 2), runs["two_ranks"][0]))
            both = [(start(path, run, 1), run) for run in runs["two_processes"]]
            found["two_processes"].append(sum(rate(process, run) for process, run in both))
    ratios = {
        "of_ideal": [two / (2 * one) for one, two in zip(found["one"], found["two_ranks"], strict=True)],
        "of_two_processes": [
            two / alone for alone, two in zip(found["two_processes"], found["two_ranks"], strict=True)
        ],
    }
    facts: dict[str, Any] = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load_at_each_round": loads,
        **vars(arguments),
        "samples_per_s": {key: [round(v, 1) for v in values] for key, values in found.items()},
        "ratios": {key: [round(v, 3) for v in values] for key, values in ratios.items()},
        **{key: round(statistics.median(values), 3) for key, values in ratios.items()},
    }
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
