"""Kills parts of an online run at random moments, and looks whether anything that was accepted is lost.

`python benchmarks/online_faults.py --seed 0` records five demonstrations of Meta-World's push-v3 and trains
online from them, once for each kill, in rounds of five: SIGKILL to the replay buffer, the policy state
manager, a rollout worker, a rank of the learner, or everything at once (then the same command is given
again). Of each run it looks whether it came to its end, whether every episode that was in the journal before
the kill is there afterwards byte for byte, whether versions of the weights only rose, and whether the LeRobot
dataset holds all episodes. Prints one line per case on stderr and JSON on stdout; exits with 1 if any falls
short.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from killed_runs import descendants, kill_tree

ROOT = Path(__file__).parents[1]
CONFIG = "benchmarks/online_small.yaml"
TITLES = {
    "replay buffer": "ray::ReplayBuffer",
    "state manager": "ray::PolicyState",
    "worker": "ray::RolloutWorker",
    "learner": "ray::RayTrainWorker",
}
PLAN = (*TITLES, "everything")  # of a round
ROUNDS = 4
LONGEST_SECONDS = 1800  # for 600 updates on a machine with much else to do
SETS = ["train.max_steps=600", "online.update_ratio=0.5"]


def journal(run: Path) -> dict[str, str]:
    """Return episode file → checksum of what the journal of a run holds."""
    files = (run / "online/journal").glob("*")
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
        if file.is_file() and not file.name.endswith(".incomplete")
    }


def versions(run: Path) -> list[float]:
    """Return the versions of the weights that the run noted, in their order."""
    path = run / "online.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["weights_version"] for line in lines]


def updates(run: Path) -> int:
    """Return the number of updates whose metrics a run has written."""
    path = run / "metrics.jsonl"
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def start(run: Path, dataset: Path) -> subprocess.Popen[str]:
    """Begin an online run, or take it up."""
    sets = [*SETS, f"train.save_dir={run}", f"data.datamodule.params.root={dataset}"]
    command = [sys.executable, "trainer/online_trainer.py", "--train_config", CONFIG]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    return subprocess.Popen(
        [*command, *(part for one in sets for part in ("--set", one))],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def victims(process: subprocess.Popen[str], title: str) -> list[int]:
    """Return the processes of a run that bear a title of Ray."""
    found = []
    for pid in descendants(process.pid):
        try:
            name = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
        except OSError:
            continue
        if name.startswith(title):
            found.append(pid)
    return found


def try_one(run: Path, dataset: Path, whom: str, at: int) -> dict[str, Any]:
    """Kill somebody after so many updates, and return what came of it."""
    began = time.monotonic()
    process = start(run, dataset)
    while updates(run) < at and process.poll() is None:
        time.sleep(0.1)
    before, known = journal(run), versions(run)
    killed = 0
    if process.poll() is None:
        if whom == "everything":
            kill_tree(process.pid)
            killed = 1
        else:
            for pid in victims(process, TITLES[whom])[:1]:
                os.kill(pid, signal.SIGKILL)
                killed = 1
    said, _ = process.communicate(timeout=LONGEST_SECONDS)
    if whom == "everything":
        process = start(run, dataset)
        said, _ = process.communicate(timeout=LONGEST_SECONDS)
    return {
        "whom": whom,
        "at": at,
        "killed": killed,
        "seconds": round(time.monotonic() - began),
        **_found(run, before, known),
        "exit": process.returncode,
        "said": "" if process.returncode == 0 else said[-2000:],
    }


def _found(run: Path, before: Mapping[str, str], known: list[float]) -> dict[str, Any]:
    after = journal(run)
    info = run / "online/dataset/meta/info.json"
    in_dataset = json.loads(info.read_text())["total_episodes"] if info.exists() else 0
    seen = versions(run)
    return {
        "episodes": len(after),
        "before": len(before),
        "lost": sum(after.get(name) != checksum for name, checksum in before.items()),
        "in_dataset": in_dataset,
        "updates": updates(run),
        "versions_fell": any(b <= a for a, b in itertools.pairwise(seen))
        or (bool(known) and bool(seen) and seen[-1] < known[-1]),
    }


def falls_short(facts: Mapping[str, Any]) -> bool:
    """Say whether a case is anything but right."""
    whole = facts["updates"] == 600 and facts["episodes"] == facts["in_dataset"] > 0
    return bool(facts["exit"] or facts["lost"] or facts["versions_fell"] or not whole or not facts["killed"])


def main() -> None:
    """Try every case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=[*PLAN], help="one kind of kill")
    parser.add_argument("--count", type=int, default=ROUNDS, help="so many of each kind")
    parser.add_argument("--skip", type=int, default=0, help="leave out so many of the first cases")
    arguments = parser.parse_args()
    source = random.Random(arguments.seed)
    cases = [
        (whom, source.randrange(40, 500))
        for _ in range(arguments.count)
        for whom in PLAN
        if arguments.only in (None, whom)
    ]
    results = []
    with tempfile.TemporaryDirectory(prefix="online-faults-") as name:
        dataset = Path(name) / "dataset"
        record = ["record", "--env", "metaworld/push-v3", "--episodes", "5", "--out", str(dataset)]
        subprocess.run([sys.executable, "-m", "trainer.cli", *record], cwd=ROOT, check=True)
        for number, (whom, at) in list(enumerate(cases))[arguments.skip :]:
            facts = try_one(Path(name) / f"run_{number}", dataset, whom, at)
            results.append(facts)
            verdict = "SHORT" if falls_short(facts) else "right"
            print(f"{verdict} {number + 1}/{len(cases)} {json.dumps(facts)}", file=sys.stderr, flush=True)
    right = sum(not falls_short(facts) for facts in results)
    print(json.dumps({"seed": arguments.seed, "right": right, "of": len(results), "cases": results}))
    sys.exit(right != len(results))


if __name__ == "__main__":
    main()
