"""How much faster two ranks train than one, with one thread each.

`python benchmarks/rank_scaling.py` trains the same compute-bound policy by turns with one process, with two
ranks under torchrun (gloo) that share the gradients, and with two processes that know nothing of each other:
what the machine gives at best, since two busy cores may be slower than one. The batch per rank is the same.
Samples per second are those that the framework writes into metrics.jsonl, without the first window. Prints
JSON: samples per second of two ranks over twice those of one, and over those of the two processes, as medians
and, where other work disturbs, of the windows that were faster than nine tenths.
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


def rates(process: subprocess.Popen[bytes], run: Path) -> list[float]:
    """Return the samples per second of the windows of a training, without the first, when it has ended."""
    said = process.communicate()[1].decode()
    if process.returncode != 0:
        raise SystemExit(f"a training failed:\n{said}")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["samples_per_s"] for line in lines if "samples_per_s" in line][1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--batch", type=int, default=512, help="samples per rank")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    import torch

    windows: dict[str, list[list[float]]] = {"one": [], "two_ranks": [], "two_processes": []}
    loads = []
    with tempfile.TemporaryDirectory(prefix="rank_scaling.") as name:
        folder = Path(name)
        size = Size(arguments.width, arguments.blocks, condition=256, batch=arguments.batch, episodes=400)
        changes = {
            "train": {
                "epoch": None,
                "max_steps": arguments.steps,
                "save_every": 10**6,
                "log_every_n_steps": 5,
            }
        }
        path = write_experiment(folder, size, changes)
        for turn in range(arguments.rounds):
            loads.append(round(os.getloadavg()[0], 2))
            runs = {key: [folder / f"{key}_{turn}_{i}" for i in range(2)] for key in windows}
            windows["one"].append(rates(start(path, runs["one"][0], 1), runs["one"][0]))
            windows["two_ranks"].append(rates(start(path, runs["two_ranks"][0], 2), runs["two_ranks"][0]))
            both = [(start(path, run, 1), run) for run in runs["two_processes"]]
            each = [rates(process, run) for process, run in both]
            windows["two_processes"].append([sum(pair) for pair in zip(*each, strict=True)])
    found = {key: [statistics.median(one) for one in several] for key, several in windows.items()}
    quiet = {
        key: statistics.quantiles([v for one in several for v in one], n=10)[-1]
        for key, several in windows.items()
    }
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
        "fast_windows": {
            "samples_per_s": {key: round(value, 1) for key, value in quiet.items()},
            "of_ideal": round(quiet["two_ranks"] / (2 * quiet["one"]), 3),
            "of_two_processes": round(quiet["two_ranks"] / quiet["two_processes"], 3),
        },
    }
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
