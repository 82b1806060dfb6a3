"""Kills runs at random moments and while checkpoints are written or pruned, and compares what they come to.

`python benchmarks/kill_matrix.py` trains a small experiment (state flow matching with dropout, noise on the
observations, two batches per update, clipping, weight average, validation, checkpoints every four updates of
which most are pruned) without a disturbance, then again and again with `SIGKILL` in between: in one process,
in two ranks of torchrun, with whole and with sharded models, and in two workers of Ray. What a killed run
comes to when the same command is given again must be the undisturbed run, bit for bit: weights, optimizers,
averages, schedules, generators, the samples of every step as they were augmented, metrics, validations, which
checkpoints stay, and with wandb its offline log. Prints one line per case on stderr and JSON on stdout; exits
with 1 if any case differs.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from killed_runs import Case, Ground, differences, draw

# Way, kind of kill, how many, of which so many log with wandb.
PLAN = [
    ("one", "progress", 7, 4),
    ("one", "start", 1, 0),
    ("one", "twice", 3, 2),
    ("one", "operation", 2, 1),
    ("one", "renamed", 1, 0),
    ("one", "replacing", 1, 0),
    ("one", "removing", 2, 0),
    ("two", "progress", 4, 1),
    ("two", "rank", 2, 0),
    ("two", "launcher", 1, 0),
    ("two", "twice", 1, 0),
    ("two", "operation", 1, 0),
    ("two", "renamed", 1, 0),
    ("two", "replacing", 1, 0),
    ("two", "removing", 1, 0),
    ("fsdp", "progress", 3, 0),
    ("fsdp", "rank", 1, 0),
    ("fsdp", "twice", 1, 0),
    ("fsdp", "operation", 1, 0),
    ("ray", "rank", 2, 0),
    ("ray", "progress", 1, 0),
    ("ray", "launcher", 1, 0),
]
WAYS = ["one", "two", "fsdp", "ray"]


def cases(seed: int, lines: int, ways: Sequence[str]) -> list[Case]:
    """Draw the cases of the plan.

    Args:
        seed: of the draw.
        lines: of metrics in a whole run.
        ways: which of `one`, `two`, `fsdp`, `ray` to try.
    """
    source, found = random.Random(seed), []
    for way, what, count, with_wandb in PLAN:
        for n in range(count):
            case = draw(source, len(found), way, what, lines, n < with_wandb)
            found.append((what, case))
    return [case for _, case in found if case.way in ways]


def try_one(ground: Ground, reference: Path, case: Case) -> dict[str, Any]:
    """Kill a run as the case says and return what came of it."""
    started = time.perf_counter()
    facts: dict[str, Any] = {
        "case": case.number,
        "way": case.way,
        "kinds": "+".join(kill.what for kill in case.kills),
        "workers": case.workers,
        "wandb": case.wandb,
    }
    try:
        run, met = ground.killed(case)
        facts |= {"kills": met, "differences": differences(reference, run, case.wandb)}
    except (RuntimeError, OSError, ValueError) as error:
        facts |= {"kills": [], "differences": [f"{type(error).__name__}: {error}"]}
    return facts | {"seconds": round(time.perf_counter() - started, 1)}


def sentence(facts: dict[str, Any]) -> str:
    """Return a line about a case."""
    kills = []
    for met in facts["kills"]:
        where = f"after {met['updates_noted']} updates"
        where += f", before {met['before'][0]}" if met["before"] else ""
        where += f", {', '.join(met['unfinished_folders'])} unfinished" if met["unfinished_folders"] else ""
        kills.append(f"{met['kill']['what']} ({where}{', the run had ended' if met['had_ended'] else ''})")
    result = "identical" if not facts["differences"] else "DIFFERS: " + "; ".join(facts["differences"])
    return f"{facts['case']:3d} {facts['way']:4s} {' then '.join(kills)}: {result}"


def main() -> None:
    import torch

    import trainer

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--only", type=int, nargs="+", help="numbers of cases")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--keep", type=Path, help="an empty folder to work in, which stays")
    arguments = parser.parse_args()

    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="kill_matrix."))
    folder.mkdir(parents=True, exist_ok=True)
    ground = Ground.prepare(folder, arguments.epochs)
    results: list[dict[str, Any]] = []
    try:
        references = {way: ground.whole(way, f"whole_{way}") for way in arguments.ways}
        lines = sum(1 for _ in (references[arguments.ways[0]] / "metrics.jsonl").open())
        for case in cases(arguments.seed, lines, arguments.ways):
            if arguments.only is None or case.number in arguments.only:
                results.append(try_one(ground, references[case.way], case))
                print(sentence(results[-1]), file=sys.stderr, flush=True)
    finally:
        ground.stop_everything()
        if arguments.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    good = sum(not one["differences"] for one in results)
    kills = sum(len(one["kills"]) for one in results)
    print(f"{good} of {len(results)} runs identical after {kills} kills.", file=sys.stderr)
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "trainer": trainer.__version__,
    }
    summary = {"seed": arguments.seed, "versions": versions, "updates": lines, "identical": good}
    print(json.dumps({**summary, "runs": len(results), "kills": kills, "cases": results}, indent=2))
    raise SystemExit(0 if good == len(results) else 1)


if __name__ == "__main__":
    main()
