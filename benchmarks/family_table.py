"""One table of policies on one footing: trains each, tries it out on unseen starts, and says what that cost.

    python benchmarks/family_table.py CONFIG… --seeds 0 1 2 --env metaworld/push-v3 --episodes 50

Every training and every evaluation is a process of its own on one thread, whose processor time counts, not
the clock: other work on the machine does not change it much. What was measured lies in `--out`, a JSON file
for each run; the command given again goes on with what is missing, and prints the table of all that it was
asked for. Columns:

* `parameters`: of all components of the policy, frozen ones too;
* `training`, `evaluation`: minutes of the processor, start of the process included;
* `ms a chunk`: of the processor, to encode one robot's observation and draw its chunk, median of 20;
* `success`, `score`: over the starts, with 95 % intervals.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
HEAD = ("policy", "seed", "parameters", "training", "evaluation", "ms a chunk", "success", "score")
CALLS = 20


@dataclass
class Run:
    """What is known of one configuration with one seed; None where it was not measured yet.

    Attributes:
        name: of the configuration.
        seed: of the training.
        train_cpu_s: seconds of the processor.
        evaluate_cpu_s: likewise.
        results: what `trainer evaluate` wrote.
        parameters: of the policy.
        chunk_ms: milliseconds of the processor for a chunk.
    """

    name: str
    seed: int
    train_cpu_s: float | None = None
    evaluate_cpu_s: float | None = None
    results: dict[str, Any] | None = None
    parameters: int | None = None
    chunk_ms: float | None = None

    def row(self) -> list[str]:
        """Return the cells of the table; what was not measured is a dash."""
        r = self.results
        return [
            self.name,
            str(self.seed),
            "–" if self.parameters is None else f"{self.parameters / 1e6:.2f} M",
            _minutes(self.train_cpu_s),
            _minutes(self.evaluate_cpu_s),
            "–" if self.chunk_ms is None else f"{self.chunk_ms:.1f}",
            "–" if r is None else _with_interval(r["success_rate"], r["success_interval"], "{:.0%}"),
            "–" if r is None else _with_interval(r["mean_score"], r["score_interval"], "{:.3f}"),
        ]


def _minutes(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds / 60:.1f} min"


def _with_interval(value: float, interval: Sequence[float], form: str) -> str:
    low, high = (form.format(end) for end in interval)
    return f"{form.format(value)} ({low} to {high})"


def table(runs: Sequence[Run]) -> str:
    """Return the runs as a table in Markdown."""
    lines = [HEAD, ["---"] * len(HEAD), *(run.row() for run in runs)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def name_of(config: Path) -> str:
    """Return what to call a configuration: its file's name, of a `small.yaml` its folder's."""
    return "-".join(config.parts[-3:-1]) if config.stem == "small" else config.stem


def processor_seconds(command: Sequence[str], log: Path) -> float:
    """Run a command on one thread, its output in a file, and return the seconds of the processor it took.

    Raises:
        SystemExit: it failed.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"`{' '.join(command)}` ended with {process.returncode}; its output is in {log}")
    return usage.ru_utime + usage.ru_stime


def measure_deployed(folder: Path) -> tuple[int, float]:
    """Return the number of parameters of a checkpoint's policy, and the milliseconds it takes for a chunk."""
    import torch

    from trainer.deployment.robot_policy import load_policy

    torch.set_num_threads(1)
    policy = load_policy(folder, device="cpu", n_action_steps=1, temporal_ensembling=False)
    random = np.random.default_rng(0)
    observation = {
        name: random.integers(0, 255, (*column.shape[1:], 3), np.uint8)
        if column.is_picture
        else np.zeros(column.shape, column.dtype)
        for name, column in policy.observations.items()
    }
    took = []
    for _ in range(CALLS + 2):
        policy.reset(0)
        began = time.process_time()
        policy.act(observation)
        took.append(1000 * (time.process_time() - began))
    return sum(p.numel() for p in policy.policy.parameters()), statistics.median(took[2:])


def measure(config: Path, seed: int, asked: argparse.Namespace) -> Run:
    """Train, evaluate and time one configuration with one seed, as far as that is not done yet."""
    out = asked.out.resolve()
    folder = out / f"{name_of(config)}-seed{seed}"
    facts = folder.with_suffix(".json")
    run = Run(name_of(config), seed)
    if facts.exists():
        run = Run(**json.loads(facts.read_text(encoding="utf-8")))
    trainer = [sys.executable, "-m", "trainer.cli"]
    if run.train_cpu_s is None:
        changes = [f"seed={seed}", f"train.save_dir={folder}", "train.evaluation=null", *asked.set]
        words = [word for change in changes for word in ("--set", change)]
        command = [*trainer, "train", str(config.resolve()), *words]
        run.train_cpu_s = processor_seconds(command, out / f"{folder.name}-train.log")
        _keep(facts, run)
    if run.results is None and asked.episodes:
        target = out / f"{folder.name}-evaluation"
        command = [*trainer, "evaluate", str(folder), "--env", asked.env, "--episodes", str(asked.episodes)]
        command += ["--seed", str(asked.start_seed), "--videos", "0", "--out", str(target)]
        run.evaluate_cpu_s = processor_seconds(command, out / f"{folder.name}-evaluate.log")
        run.results = json.loads((target / "results.json").read_text(encoding="utf-8"))
        _keep(facts, run)
    if run.chunk_ms is None and asked.episodes:
        run.parameters, run.chunk_ms = measure_deployed(folder)
        _keep(facts, run)
    return run


def _keep(facts: Path, run: Run) -> None:
    facts.write_text(json.dumps(asdict(run), indent=1), encoding="utf-8")


def main() -> None:
    """Measure what is asked for, one after the other, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("configs", nargs="+", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--env", default="metaworld/push-v3")
    parser.add_argument("--episodes", type=int, default=50, help="0: train only")
    parser.add_argument("--start-seed", type=int, default=0, help="chooses the starts")
    parser.add_argument("--out", type=Path, default=Path("runs/family_table"))
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="for all trainings")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    runs = []
    for seed in asked.seeds:
        for config in asked.configs:
            runs.append(measure(config, seed, asked))
            print(table(runs[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    print(table(sorted(runs, key=lambda run: (run.name, run.seed))))


if __name__ == "__main__":
    main()
