"""Compares training online with the same budget of updates spent on the demonstrations alone.

`python benchmarks/online_results.py --tasks push-v3 pick-place-v3 --seeds 0 1 2` records five demonstrations
of each task, trains `--config` on them twice, with `trainer online` and with `trainer train`, and evaluates
both on the same 50 unseen starts. Prints each result as JSON, with the curve of what was collected, and a
table of success and its 95 % interval, expert labels, minutes of wall time and of the processor's time in all
processes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from killed_runs import descendants

ROOT = Path(__file__).parents[1]
USUAL = "examples/configs/metaworld_push_online.yaml"


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a JSONL file, none where it is not there."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run_timed(command: list[str], **options: Any) -> float:
    """Run a command to its end; return the processor time, in s, of it and of all that it has started.

    Looked up every second, since what Ray ends is waited for by nobody, who could add it up.
    """
    process = subprocess.Popen(command, **options)
    spent: dict[int, float] = {}
    while process.poll() is None:
        for pid in descendants(process.pid):
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
            spent[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        time.sleep(1.0)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return sum(spent.values())


def trained(config: str, way: str, task: str, seed: int, folder: Path, sets: list[str]) -> dict[str, Any]:
    """Record, train in one of two ways, and return what came of it."""
    run, dataset = folder / f"{way}-{task}-{seed}", folder / f"{task}-{seed}"
    sets = [
        f"params.task={task}",
        f"seed={seed}",
        f"data.recording.seed={seed}",
        f"data.datamodule.params.root={dataset}",
        f"train.save_dir={run}",
        *sets,
    ]
    options: dict[str, Any] = {"cwd": ROOT, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
    trainer = [sys.executable, "-m", "trainer.cli"]
    record = ["record", "--env", f"metaworld/{task}", "--episodes", "5", "--seed", str(seed)]
    subprocess.run([*trainer, *record, "--out", str(dataset)], check=True, **options)
    began = time.monotonic()
    overrides = [part for one in sets for part in ("--set", one)]
    processor = run_timed([*trainer, way, config, *overrides], **options)
    minutes = (time.monotonic() - began) / 60
    (score,) = lines(run / "evaluations.jsonl")[-1:]
    curve = lines(run / "online.jsonl")
    return {
        "way": way,
        "task": task,
        "seed": seed,
        "success": score["success_rate"],
        "interval": score["success_interval"],
        "minutes": round(minutes, 1),
        "processor_minutes": round(processor / 60, 1),
        "labels": int(curve[-1]["expert_labels"]) if curve else 0,
        "curve": [
            [c["step"], c["seconds"], int(c["expert_labels"]), c.get("collected_success")] for c in curve
        ],
    }


def main() -> None:
    """Compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=USUAL)
    parser.add_argument("--tasks", nargs="+", default=["push-v3", "pick-place-v3", "peg-insert-side-v3"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", choices=["train", "online"], default=["train", "online"])
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="PATH=VALUE")
    arguments = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory(prefix="online-results-") as name:
        for task in arguments.tasks:
            for seed in arguments.seeds:
                for way in arguments.ways:
                    results.append(trained(arguments.config, way, task, seed, Path(name), arguments.sets))
                    print(json.dumps(results[-1]), flush=True)
    print(
        f"{'task':<20}{'seed':>5}  {'way':<8}{'success':>8}  {'interval':<14}{'labels':>8}{'minutes':>9}"
        f"{'processor':>11}"
    )
    for one in results:
        low, high = one["interval"]
        print(
            f"{one['task']:<20}{one['seed']:>5}  {one['way']:<8}{one['success']:>8.0%}  "
            f"{f'{low:.0%}-{high:.0%}':<14}{one['labels']:>8,}{one['minutes']:>9}"
            f"{one['processor_minutes']:>11}"
        )


if __name__ == "__main__":
    main()
